//! What `plan`, `quantize` and `export` take: a model, the recipe in its short form, and the form of an artifact.

use clap::{Args, ValueEnum};
use qonnx::artifact::plan::{GptqFlags, Method, RecipeChoice, RecipeFlags, Request};
use qonnx::recipe::{BudgetRecipe, FormatName, GranularityName, Override, RotationKind, ScaleName};
use qonnx::record::Target;
use qonnx::tensor::DType;

use super::positive;

#[derive(Args)]
pub struct ModelArgs {
    /// A local folder with safetensors, or a Hugging Face repo id, `org/name[@revision]`.
    model: String,
    /// How weights become codes. gptq, awq, awq+gptq and llm-int8 use calibration data [default: rtn unless --recipe].
    #[arg(long, value_enum, conflicts_with = "recipe")]
    method: Option<MethodArg>,
    /// Width of the decoder's linears: 2, 3, 4, 5, 6 or 8; 16 is the unquantized baseline [default: 4 unless --recipe].
    #[arg(long, value_parser = parse_bits, conflicts_with_all = ["recipe", "target_bpw", "target_size"])]
    bits: Option<FormatName>,
    /// Choose each weight's width for the least loss at this many bits per weight of the decoder's linears, scales counted.
    #[arg(long, value_name = "BITS", conflicts_with_all = ["recipe", "target_size"])]
    target_bpw: Option<f64>,
    /// Choose each weight's width for the least loss in a model of at most this size, like 700MB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "recipe")]
    target_size: Option<u64>,
    /// Consecutive input features that share a scale, a power of two from 16 to 256 [default: 32; INT8: per channel; NF4 and
    /// FP4: 64].
    #[arg(long, conflicts_with_all = ["recipe", "per_channel"])]
    group_size: Option<usize>,
    /// One scale for each output feature.
    #[arg(long, conflicts_with = "recipe")]
    per_channel: bool,
    /// Unsigned codes with a zero point instead of signed codes without one.
    #[arg(long, conflicts_with = "recipe")]
    asymmetric: bool,
    /// How the scale of a group is chosen [default: least-squares; INT8, NF4, FP4: absmax; gptq: fitted to the Gram matrix].
    #[arg(long, value_enum, conflicts_with = "recipe")]
    scale: Option<ScaleArg>,
    /// gptq: first rung of the damping ladder, in means of the Gram matrix's diagonal [default: 0.01].
    #[arg(long, conflicts_with = "recipe")]
    damping: Option<f64>,
    /// gptq: most active input features first (the default).
    #[arg(long, conflicts_with_all = ["recipe", "no_act_order"])]
    act_order: bool,
    /// gptq: input features in storage order.
    #[arg(long, conflicts_with = "recipe")]
    no_act_order: bool,
    /// gptq: rounds of coordinate descent over scales and codes afterwards [default: 2].
    #[arg(long, conflicts_with = "recipe")]
    sweeps: Option<usize>,
    /// gptq: aim at the unquantized model's outputs on its own inputs, from 0 (not) to 1 (fully); runs both models [default: 0].
    #[arg(long, value_name = "ALPHA", conflicts_with = "recipe")]
    target_correction: Option<f32>,
    /// nf4, fp4: store the scales in 8 bits.
    #[arg(long, conflicts_with = "recipe")]
    double_quantization: bool,
    /// llm-int8: input features whose activations reach this on calibration data stay f16 [default: 6].
    #[arg(long, conflicts_with = "recipe")]
    outlier_threshold: Option<f32>,
    /// Turn the model by an orthogonal matrix first, merged into its weights; any method can follow.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "hadamard", conflicts_with = "recipe")]
    rotate: Option<RotateArg>,
    /// Seed of --rotate [default: 0].
    #[arg(long, conflicts_with = "recipe")]
    seed: Option<u64>,
    /// Calibration data: a built-in set, a TOML file that describes a set, or a JSON file with windows of token ids
    /// [default: the recipe's, or the embedded set].
    #[arg(long, value_name = "SET|FILE")]
    calibration: Option<String>,
    /// Embedding and LM head (one packed table where they are tied): f16, int8 or int4 [default: f16].
    #[arg(long, value_parser = parse_embedding, conflicts_with = "recipe")]
    embedding: Option<FormatName>,
    /// Another format for some weights, PATTERN=FORMAT; the last match wins. May be repeated.
    #[arg(long = "override", value_name = "PATTERN=FORMAT", value_parser = parse_override)]
    overrides: Vec<Override>,
    /// A recipe file (TOML) or the name of a built-in recipe, like int4-g32-gptq.
    #[arg(long)]
    recipe: Option<String>,
}

/// What an artifact differs in from others of the same numbers.
#[derive(Args)]
pub struct ArtifactForm {
    /// Element type of activations and KV cache: f16 for CUDA, f32 for the CPU.
    #[arg(long, value_enum, default_value = "f16")]
    dtype: ActivationArg,
    /// Positions that the artifact can attend to [default: the checkpoint's, at most 8192].
    #[arg(long, value_parser = positive)]
    max_context: Option<usize>,
    /// What will open it.
    #[arg(long, value_enum, default_value = "ort", value_delimiter = ',')]
    target: Vec<TargetArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum TargetArg {
    /// ONNX Runtime and what is built on it (onnxruntime-genai, optimum): DequantizeLinear, which it fuses.
    Ort,
    /// Any runtime: ONNX's own operators of version 23 alone (OpenVINO, rten, tract); odd widths in cells of 4 and 8 bits.
    Portable,
    /// Runtimes that fuse nothing (WebGPU, rten): MatMulNBits, q, k and v in one product.
    #[value(name = "matmulnbits")]
    MatMulNBits,
    /// transformers.js, in Node and browsers: the graph of matmulnbits in `onnx/`, called by its width, in files below 2 GB.
    #[value(name = "transformers.js")]
    TransformersJs,
    /// TensorRT: the portable form in f16 with positive scales, INT4 in groups of 64 or 128 or INT8 per channel.
    #[value(name = "tensorrt")]
    TensorRt,
    /// vLLM and transformers: a compressed-tensors checkpoint, `pack-quantized`, of 2, 4 or 8 bits.
    #[value(name = "compressed-tensors")]
    CompressedTensors,
    /// vLLM, transformers and exllama: a GPTQ checkpoint of 2, 3, 4 or 8 bits, one form for all linears.
    Gptq,
    /// mlx-lm: a checkpoint of symmetric codes in groups of 32, 64 or 128.
    Mlx,
    /// transformers: a bitsandbytes checkpoint of NF4 or FP4.
    Bitsandbytes,
    /// llama.cpp: a GGUF file of Q4_0, Q5_0 and Q8_0 blocks with the tokenizer in it; symmetric codes in groups of 32 or a multiple.
    Gguf,
}

impl ArtifactForm {
    /// What artifacts are asked for, each once; at least one.
    pub fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = self.target.iter().map(|target| target.target()).collect();
        let mut seen = Vec::new();
        targets.retain(|target| {
            !seen.contains(target) && {
                seen.push(*target);
                true
            }
        });
        targets
    }
}

impl TargetArg {
    fn target(self) -> Target {
        match self {
            TargetArg::Ort => Target::Ort,
            TargetArg::Portable => Target::Portable,
            TargetArg::MatMulNBits => Target::MatMulNBits,
            TargetArg::TransformersJs => Target::TransformersJs,
            TargetArg::TensorRt => Target::TensorRt,
            TargetArg::CompressedTensors => Target::CompressedTensors,
            TargetArg::Gptq => Target::Gptq,
            TargetArg::Mlx => Target::Mlx,
            TargetArg::Bitsandbytes => Target::Bitsandbytes,
            TargetArg::Gguf => Target::Gguf,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum MethodArg {
    /// Round to nearest.
    Rtn,
    /// Each column's rounding error carried over to the columns after it.
    Gptq,
    /// Important input features scaled up, groups clipped, then round to nearest.
    Awq,
    /// AWQ, then GPTQ.
    #[value(name = "awq+gptq")]
    AwqGptq,
    /// bitsandbytes' 4-bit codebook of normal quantiles.
    Nf4,
    /// bitsandbytes' 4-bit floats.
    Fp4,
    /// INT8 with the input features that have outliers in f16.
    LlmInt8,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScaleArg {
    Absmax,
    SignedMax,
    LeastSquares,
    /// Least squares over positive scales alone, which TensorRT asks for.
    LeastSquaresPositive,
}

#[derive(Clone, Copy, ValueEnum)]
enum RotateArg {
    /// Hadamard with random signs.
    Hadamard,
    /// Any orthogonal matrix.
    Random,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ActivationArg {
    F16,
    F32,
}

impl ActivationArg {
    fn dtype(self) -> DType {
        match self {
            ActivationArg::F16 => DType::F16,
            ActivationArg::F32 => DType::F32,
        }
    }
}

impl ModelArgs {
    /// An artifact of this form.
    pub fn request(self, form: &ArtifactForm) -> Request {
        Request { max_context: form.max_context, target: form.targets()[0], ..self.numbers(form.dtype) }
    }

    /// The numbers alone, calibrated with activations of this type.
    pub fn numbers(self, activation: ActivationArg) -> Request {
        let overrides = self.overrides.clone();
        Request {
            activation: activation.dtype(),
            max_context: None,
            target: Target::Ort,
            data_file_bytes: None,
            calibration: self.calibration.clone(),
            model: self.model.clone(),
            recipe: match &self.recipe {
                Some(name) => RecipeChoice::Named(name.clone()),
                None => RecipeChoice::Flags(self.flags()),
            },
            overrides,
        }
    }

    fn flags(&self) -> RecipeFlags {
        RecipeFlags {
            method: self.method.map_or(Method::Rtn, MethodArg::method),
            format: self.bits,
            granularity: match (self.group_size, self.per_channel) {
                (Some(size), _) => Some(GranularityName::Group(size)),
                (None, true) => Some(GranularityName::Channel),
                (None, false) => None,
            },
            asymmetric: self.asymmetric,
            scale: self.scale.map(|scale| match scale {
                ScaleArg::Absmax => ScaleName::Absmax,
                ScaleArg::SignedMax => ScaleName::SignedMax,
                ScaleArg::LeastSquares => ScaleName::LeastSquares,
                ScaleArg::LeastSquaresPositive => ScaleName::LeastSquaresPositive,
            }),
            embedding: self.embedding,
            gptq: GptqFlags {
                damping: self.damping,
                act_order: match (self.act_order, self.no_act_order) {
                    (true, _) => Some(true),
                    (false, true) => Some(false),
                    (false, false) => None,
                },
                sweeps: self.sweeps,
                target: self.target_correction,
            },
            double_quantization: self.double_quantization,
            outlier_threshold: self.outlier_threshold,
            rotation: self.rotate.map(|kind| match kind {
                RotateArg::Hadamard => RotationKind::Hadamard,
                RotateArg::Random => RotationKind::Random,
            }),
            seed: self.seed,
            budget: self.target_bpw.map(BudgetRecipe::Bpw).or(self.target_size.map(BudgetRecipe::Size)),
        }
    }
}

impl MethodArg {
    fn method(self) -> Method {
        match self {
            MethodArg::Rtn => Method::Rtn,
            MethodArg::Gptq => Method::Gptq,
            MethodArg::Awq => Method::Awq,
            MethodArg::AwqGptq => Method::AwqGptq,
            MethodArg::Nf4 => Method::Nf4,
            MethodArg::Fp4 => Method::Fp4,
            MethodArg::LlmInt8 => Method::LlmInt8,
        }
    }
}

fn parse_bits(text: &str) -> Result<FormatName, String> {
    let bits = text.parse().ok().and_then(FormatName::of_bits);
    bits.ok_or_else(|| "expected 2, 3, 4, 5, 6, 8 or 16".to_owned())
}

fn parse_embedding(text: &str) -> Result<FormatName, String> {
    match text {
        "f16" => Ok(FormatName::F16),
        "int8" => Ok(FormatName::Int8),
        "int4" => Ok(FormatName::Int4),
        _ => Err("expected f16, int8 or int4".to_owned()),
    }
}

fn parse_override(text: &str) -> Result<Override, String> {
    Override::from_flag(text).map_err(|error| error.to_string())
}

/// `700MB`, `1.2GB`, `650MiB`.
fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 6] =
        [("GiB", 1073741824.0), ("MiB", 1048576.0), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)];
    let parsed = UNITS.iter().find_map(|(unit, bytes)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        Some(number * bytes)
    });
    let bytes = parsed.filter(|bytes| (1.0..1e15).contains(bytes));
    bytes.map(|bytes| bytes as u64).ok_or_else(|| "expected a size like 700MB, 1.2GB or 650MiB".to_owned())
}
