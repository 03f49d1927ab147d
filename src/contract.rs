//! Names that an artifact, the checkpoint it is made from and their readers share.

mod graph_file;
pub mod names;

pub use graph_file::{DATA_FILE, GraphFile, MODEL_FILE, ONNX_FOLDER};

/// Sizes and options of the model.
pub const CONFIG_FILE: &str = "config.json";
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Special tokens and, in older models, the chat template.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// What ends an answer and how tokens are chosen.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";
/// Special tokens again; what it says wins over `tokenizer_config.json`.
pub const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
/// The chat template, where it has a file of its own.
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";

/// What onnxruntime-genai reads first; made for each artifact.
pub const GENAI_CONFIG_FILE: &str = "genai_config.json";

/// The model card: of a model its own, of which the licence is read; of an artifact the one that is made for it.
pub const CARD_FILE: &str = "README.md";

/// A folder of further templates, which transformers reads too and no artifact has.
pub const ADDITIONAL_TEMPLATES: &str = "additional_chat_templates";

/// A file beside the weights that goes wherever the model goes: it is fetched from the hub, read by calibration, and lies in
/// the artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Companion {
    pub file: &'static str,
    /// Whether nothing runs without it.
    pub is_needed: bool,
}

/// Files that nothing here reads and that go along where a model has them: what other tokenizers read, and what
/// its licence asks for.
pub const CARRIED: [&str; 10] = [
    CARD_FILE,
    "added_tokens.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.json",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "NOTICE.txt",
];

/// Every companion, the one list for the hub, calibration and export.
pub const COMPANIONS: [Companion; 6] = [
    Companion { file: CONFIG_FILE, is_needed: true },
    Companion { file: GENERATION_CONFIG_FILE, is_needed: false },
    Companion { file: TOKENIZER_FILE, is_needed: true },
    Companion { file: TOKENIZER_CONFIG_FILE, is_needed: false },
    Companion { file: SPECIAL_TOKENS_FILE, is_needed: false },
    Companion { file: CHAT_TEMPLATE_FILE, is_needed: false },
];
