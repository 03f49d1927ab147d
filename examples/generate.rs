//! Loads an artifact and continues a prompt, text as it comes.
//!
//!     qonnx export fixtures/tiny-coqa --bits 4 --dtype f32 -o /tmp/tiny-int4
//!     cargo run --release --example generate -- /tmp/tiny-int4 "The village lies in"

use std::error::Error;
use std::io::Write;
use std::path::Path;

use qonnx::generate::{Generate, GenerateOptions};
use qonnx::runtime::{Engine, EngineOptions, ExecutionProvider, Launch, WeightKernels, disable_telemetry};

fn main() -> Result<(), Box<dyn Error>> {
    // Before any thread runs: ONNX Runtime would report to its makers.
    disable_telemetry();
    let mut arguments = std::env::args().skip(1);
    let (Some(artifact), Some(prompt)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate ARTIFACT PROMPT".into());
    };
    let options =
        EngineOptions { provider: ExecutionProvider::Cpu, threads: None, weights: WeightKernels::Fused, launch: Launch::Eager };
    let mut engine = Engine::load(Path::new(&artifact), &options)?;
    let ids = engine.encode(&prompt)?;
    print!("{prompt}");
    let wanted = GenerateOptions { max_new_tokens: 16, stop: vec!["\n".to_owned()] };
    let done = engine.generate(&[ids], &wanted, &mut |piece| {
        print!("{}", piece.text);
        // A terminal that is gone ends the program with the next line.
        let _ = std::io::stdout().flush();
    })?;
    println!("\n{} tokens", done[0].ids.len());
    Ok(())
}
