#!/usr/bin/env python3
# /// script
# requires-python = "==3.11.*"
# dependencies = ["lm_eval[hf]==0.4.13", "transformers==5.17.0", "torch==2.15.0"]
# ///
"""Writes tests/goldens/lm_eval.json: texts and CoQA scores of lm_eval 0.4.13's HFLM on the embedded model, one question at a
time, under tokenizer and generation configs that checkpoints really have.

    uv run tests/goldens/make/golden_lm_eval.py tests/goldens/lm_eval.json

A case is a list of changes to the model's folder: (file, JSON merge patch); null as a patch removes the file. The test
(tests/it/lm_eval.rs) applies the same changes and asks the same questions.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks.coqa import utils as coqa

MODEL = Path(__file__).resolve().parents[3] / "fixtures/tiny-coqa"
GENERATION, TOKENIZER, TOKENIZER_CONFIG, SPECIAL, CONFIG = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
# Every case asks the first of the 25 questions; a run to the last token of an answer that nothing ends takes long.
QUESTIONS = 8
NEXT = "Q"  # id 50, what the embedded model writes after most answers and a blank line, id 294


def added(content, number):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


BOS, EOS, BREAK = added("<|begin_of_text|>", 0), added("<|end_of_text|>", 1), added(NEXT, 50)


def generation(**settings):
    return [(GENERATION, settings)]


CASES = {
    "as it is": [],
    "truncation and padding of a last call": [(TOKENIZER, {
        "truncation": {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 200}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0, "pad_token": "<|end_of_text|>"}})],
    "the tokenizer's eos is a special token of its own": [
        (TOKENIZER, {"added_tokens": [BOS, EOS, BREAK]}), (TOKENIZER_CONFIG, {"eos_token": NEXT}), (SPECIAL, {"eos_token": NEXT})],
    "special_tokens_map wins over tokenizer_config": [
        (TOKENIZER, {"added_tokens": [BOS, EOS, BREAK]}), (TOKENIZER_CONFIG, {"eos_token": "<|end_of_text|>"}), (SPECIAL, {"eos_token": {"content": NEXT, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}})],
    "no special_tokens_map": [(SPECIAL, None)],
    "an eos that is no special token": generation(eos_token_id=294),
    "two ends": generation(eos_token_id=[1, 27]),
    "a generation config without an end": generation(eos_token_id=None),
    "an end of -1": generation(eos_token_id=-1),
    "no generation config": [(GENERATION, None), (CONFIG, {"eos_token_id": 294})],
    "no end anywhere": [(GENERATION, None), (CONFIG, {"eos_token_id": None})],
    "repetition_penalty": generation(repetition_penalty=1.3),
    "repetition_penalty below one": generation(repetition_penalty=0.9),
    "encoder_repetition_penalty": generation(encoder_repetition_penalty=1.2),
    "no_repeat_ngram_size 1": generation(no_repeat_ngram_size=1),
    "no_repeat_ngram_size 3": generation(no_repeat_ngram_size=3),
    "encoder_no_repeat_ngram_size": generation(encoder_no_repeat_ngram_size=2),
    "bad_words_ids": generation(bad_words_ids=[[3873], [335, 621], [1], [262, 375]]),
    "sequence_bias": generation(sequence_bias=[[[294], -4.0], [[3873], 3.0], [[335, 621], -10.0]]),
    "min_new_tokens": generation(eos_token_id=[1, 294], min_new_tokens=6),
    "min_length": generation(eos_token_id=[1, 294], min_length=400),
    "suppress_tokens": generation(suppress_tokens=[294, 3873], begin_suppress_tokens=[335, 262]),
    "begin_suppress_tokens": generation(begin_suppress_tokens=[3873, 262, 335]),
    "max_new_tokens": generation(max_new_tokens=3),
    "max_new_tokens beyond the task's": generation(max_new_tokens=300, suppress_tokens=[1, 50], eos_token_id=None),
    "forced_eos_token_id": generation(max_new_tokens=4, forced_eos_token_id=1),
    "exponential_decay_length_penalty": generation(exponential_decay_length_penalty=[1, 1.5]),
    "forced_bos_token_id": generation(forced_bos_token_id=294),
    "all together": generation(eos_token_id=[1, 294], repetition_penalty=1.1, no_repeat_ngram_size=4, min_new_tokens=3, suppress_tokens=[3873], bad_words_ids=[[335, 621]]),
    "n_positions in config.json": [(CONFIG, {"n_positions": 500})],
    "bos that the file does not add": [(TOKENIZER_CONFIG, {"add_bos_token": False, "add_eos_token": True})],
    "sampling": generation(do_sample=True, temperature=0.6, top_p=0.9, top_k=50),
    "no tokens of its own before a text": [(TOKENIZER, {"post_processor": None})],
    "special by added_tokens_decoder": [(TOKENIZER_CONFIG, {"added_tokens_decoder": {"0": dict(BOS), "1": dict(EOS), "50": dict(BREAK)}})],
    "special in tokenizer.json and not in added_tokens_decoder": [
        (TOKENIZER, {"added_tokens": [BOS, EOS, BREAK]}), (TOKENIZER_CONFIG, {"added_tokens_decoder": {"0": dict(BOS), "1": dict(EOS), "50": BREAK | {"special": False}}})],
    "an added_tokens_decoder leaves special_tokens_map aside": [
        (TOKENIZER_CONFIG, {"added_tokens_decoder": {"0": dict(BOS), "1": dict(EOS)}}), (SPECIAL, {"eos_token": NEXT})],
    "additional_special_tokens": [(TOKENIZER_CONFIG, {"additional_special_tokens": [NEXT]})],
    "extra_special_tokens as an object": [(TOKENIZER_CONFIG, {"extra_special_tokens": {"next_token": NEXT}})],
    "additional_special_tokens in special_tokens_map": [(SPECIAL, {"additional_special_tokens": [NEXT]})],
    "an unk_token of the vocabulary": [(TOKENIZER_CONFIG, {"unk_token": NEXT}), (SPECIAL, {"unk_token": NEXT})],
    "an eos_token of the vocabulary": [(TOKENIZER_CONFIG, {"eos_token": "A"}), (SPECIAL, {"eos_token": "A"})],
    "settings in config.json alone": [(GENERATION, None), (CONFIG, {"repetition_penalty": 1.3, "suppress_tokens": [3873]})],
    "added_tokens_decoder in tokenizer_config": [(TOKENIZER_CONFIG, {"added_tokens_decoder": {"0": dict(BOS), "1": dict(EOS)}, "add_bos_token": True})],
}


def merged(value, patch):
    """JSON merge patch (RFC 7396), but null is a value."""
    if not isinstance(patch, dict) or not isinstance(value, dict):
        return patch
    return {**value, **{key: merged(value.get(key), part) for key, part in patch.items()}}


def hub_form(story):
    column = lambda turns: {"input_text": [turn["input_text"] for turn in turns], "turn_id": [turn["turn_id"] for turn in turns]}
    questions = [question["input_text"] for question in story["questions"]]
    return {"id": story["id"], "story": story["story"], "questions": {"input_text": questions, "turn_id": list(range(1, len(questions) + 1))},
            "answers": column(story["answers"]), "additional_answers": {name: column(turns) for name, turns in story.get("additional_answers", {}).items()}}


def answers(folder, stories):
    lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    until = {"until": ["\nQ:"], "max_gen_toks": 256, "do_sample": False, "temperature": 0}
    requests = [Instance("generate_until", {}, (coqa.doc_to_text(story), json.loads(json.dumps(until))), number) for number, story in enumerate(stories)]
    return lm.generate_until(requests, disable_tqdm=True)


def main():
    torch.set_num_threads(1)
    stories = [hub_form(story) for story in json.load(open(MODEL / "coqa-mini.json"))["data"][:QUESTIONS]]
    golden = {"lm_eval": "0.4.13", "transformers": "5.17.0", "cases": []}
    for name, changes in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            for file in MODEL.iterdir():
                shutil.copy(file, folder)
            for file, patch in changes:
                path = Path(folder) / file
                if patch is None:
                    path.unlink()
                else:
                    path.write_text(json.dumps(merged(json.loads(path.read_text()), patch)))
            texts = answers(folder, stories)
        scores = [coqa.process_results(story, [text]) for story, text in zip(stories, texts)]
        mean = lambda metric: sum(score[metric] for score in scores) / len(scores)
        answered = {story["id"]: text for story, text in zip(stories, texts)}
        golden["cases"].append({"name": name, "changes": changes, "f1": mean("f1"), "em": mean("em"), "texts": answered})
        print(f"{name}: F1 {mean('f1'):.4f} EM {mean('em'):.4f}", file=sys.stderr)
    Path(sys.argv[1]).write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
