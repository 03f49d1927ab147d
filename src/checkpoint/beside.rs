//! What lies beside a checkpoint's weights and is no part of them: named, so that nobody believes it was used.

use crate::host::few;

/// Sentences about the files of a folder or repository, of which `read` hold the weights.
pub fn left_out<'a>(files: impl Iterator<Item = &'a str>, read: &[&str]) -> Vec<String> {
    let (mut adapter, mut weights, mut quantized) = (Vec::new(), Vec::new(), Vec::new());
    for file in files.filter(|file| !file.contains('/') && !read.contains(file)) {
        match file {
            file if is_adapter(file) => adapter.push(file),
            "quantize_config.json" | "quant_config.json" | "hf_quant_config.json" => quantized.push(file),
            file if file.ends_with(".safetensors") => weights.push(file),
            _ => {}
        }
    }
    let say = |mut files: Vec<&str>, what: &str| {
        files.sort_unstable();
        (!files.is_empty()).then(|| format!("{}: {what}", few(&files)))
    };
    let adapter = say(
        adapter,
        "an adapter lies beside the weights and is not applied to them; to have it in the artifact, merge it first (peft's \
         merge_and_unload, then save_pretrained)",
    );
    let weights = say(weights, "more weights lie beside those that are read, and are left out");
    let quantized = say(
        quantized,
        "settings of a quantization lie beside the weights and are not read; if the weights are what came out of it, take the \
         unquantized checkpoint",
    );
    [adapter, weights, quantized].into_iter().flatten().collect()
}

/// Whether peft writes a file of this name.
pub(super) fn is_adapter(file: &str) -> bool {
    ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"].contains(&file)
}

/// The first names in order, and how many more there are.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_leftover_is_named_once() {
        let files = ["config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors", "a/b.safetensors"];
        let said = left_out(files.into_iter(), &["model.safetensors"]);
        assert_eq!(said.len(), 1);
        let begins = "adapter_config.json, adapter_model.safetensors: an adapter lies beside the weights and is not applied";
        assert!(said[0].starts_with(begins), "{said:?}");

        let more = ["1.safetensors", "2.safetensors", "3.safetensors", "consolidated.safetensors", "quantize_config.json"];
        let said = left_out(more.into_iter(), &[]);
        assert!(
            said[0].starts_with("1.safetensors, 2.safetensors, 3.safetensors and 1 more: more weights lie beside"),
            "{said:?}"
        );
        assert!(said[1].starts_with("quantize_config.json: settings of a quantization"), "{said:?}");
        assert!(left_out(["model.safetensors", "README.md"].into_iter(), &["model.safetensors"]).is_empty());
    }
}
