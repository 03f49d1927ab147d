//! Prints `id turn_id sha256(prompt) sha256(json of references)` of every turn of a CoQA file, to compare with what
//! lm_eval's own functions give: `tests/goldens/make/golden_coqa.py --hash FILE` prints the same lines.

use qonnx::eval::coqa::protocol::{AskedTurns, Protocol, sha256_hex};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: coqa_hashes FILE")?;
    let every_turn = Protocol { asked: AskedTurns::Every, ..Protocol::LM_EVAL };
    for story in every_turn.stories(&qonnx::eval::coqa::load(path.as_ref())?) {
        for question in story.questions {
            let golds = sha256_hex(serde_json::to_string(&question.golds)?.as_bytes());
            println!("{} {} {} {golds}", question.id, question.turn_id, question.prompt_sha256);
        }
    }
    Ok(())
}
