"""Signatures of data sets of answers and what judges them: scores, or a verdict on which of two is better."""

from __future__ import annotations

from ratchet.plan.columns import Fixed, PreferredBy, Where
from ratchet.plan.signatures.signature import Signature, known, verdict

_TIES = ("tie", "both", "neither", "both_bad", "both bad", "bothbad", "tie (bothbad)", "draw", "equal", "same")
_A_OR_B = verdict("winner", ("model_a", "a", "response_a", "A>B"), ("model_b", "b", "response_b", "B>A"), _TIES)
_SIDES = ("chosen", "rejected")


def _preferred(column: str) -> PreferredBy:
    return verdict(column, ("A", "response_a", "A>B"), ("B", "response_b", "B>A"), ("C", *_TIES))


def _one_or_two(column: str) -> PreferredBy:
    return verdict(column, (1, "response_1"), (2, "response_2"), (0, 1.5, "tie", "both", "neither"))


def _compared(name: str, first: str, second: str, better: PreferredBy) -> Signature:
    """Return a signature of two answers to `prompt` and a column that says which is better."""
    without = tuple(side for side in _SIDES if side != better.column)
    columns: dict[str, Where] = {
        "prompt": "prompt",
        "output_1": first,
        "output_2": second,
        "preference": better,
        "system?": "system",
    }
    return known(name, "annotated", columns, f"two answers and a {better.column}", without=without)


def _scored(name: str, prompt: str, responses: str, scores: str, seen: str) -> Signature:
    """Return a signature of a list of answers beside a list of their scores."""
    columns = {"prompt": prompt, "responses": responses, "scores": scores, "system?": "system"}
    return known(name, "scored", columns, seen, types={responses: ("texts", "list")}, without=_SIDES)


JUDGED: tuple[Signature, ...] = (
    known(
        "stack_exchange_answers",
        "scored",
        {"prompt": "question", "responses": "answers[*].text", "scores": "answers[*].pm_score"},
        "HuggingFaceH4/stack-exchange-preferences",
    ),
    known(
        "pku_saferlhf",
        "annotated",
        {
            "prompt": "prompt",
            "output_1": "response_0",
            "output_2": "response_1",
            "preference": verdict("better_response_id", (0,), (1,)),
        },
        "PKU-Alignment/PKU-SafeRLHF, by helpfulness",
    ),
    known(
        "shp",
        "annotated",
        {
            "prompt": "history",
            "output_1": "human_ref_A",
            "output_2": "human_ref_B",
            "preference": verdict("labels", (1,), (0,)),
        },
        "stanfordnlp/SHP",
    ),
    known(
        "helpsteer2_preference",
        "annotated",
        {
            "prompt": "prompt",
            "output_1": "response_1",
            "output_2": "response_2",
            "preference": verdict("preference_strength", (-3, -2, -1), (1, 2, 3), (0,)),
        },
        "nvidia/HelpSteer2, preference",
    ),
    known(
        "helpsteer3",
        "annotated",
        {
            "prompt": "context",
            "output_1": "response1",
            "output_2": "response2",
            "preference": verdict("overall_preference", (-3, -2, -1), (1, 2, 3), (0,)),
        },
        "nvidia/HelpSteer3, preference",
    ),
    known(
        "nectar",
        "scored",
        {"prompt": "prompt", "responses": "answers[*].answer", "scores": "-answers[*].rank"},
        "berkeley-nest/Nectar: rank 1 is the best",
    ),
    known(
        "webgpt",
        "scored",
        {
            "prompt": "question.full_text",
            "responses": ("answer_0", "answer_1"),
            "scores": ("score_0", "score_1"),
        },
        "openai/webgpt_comparisons",
    ),
    known(
        "arena",
        "annotated",
        {
            "output_1": "conversation_a",
            "output_2": "conversation_b",
            "preference": verdict(
                "winner", ("model_a",), ("model_b",), ("tie", "tie (bothbad)", "both_bad", "tie (both bad)")
            ),
        },
        "lmsys/chatbot_arena_conversations, lmarena-ai/arena-human-preference-140k",
    ),
    known(
        "response_a_b",
        "annotated",
        {"prompt": "prompt", "output_1": "response_a", "output_2": "response_b", "preference": _A_OR_B},
        "two answers and a winner",
    ),
    known(
        "question_a_b",
        "annotated",
        {"prompt": "question", "output_1": "response_a", "output_2": "response_b", "preference": _A_OR_B},
        "two answers and a winner",
    ),
    known(
        "preference_collection",
        "annotated",
        {
            "prompt": "orig_instruction",
            "output_1": "orig_response_A",
            "output_2": "orig_response_B",
            "preference": verdict("orig_preference", ("A",), ("B",), ("TIE",)),
        },
        "prometheus-eval/Preference-Collection",
    ),
    known(
        "distilabel_ratings",
        "scored",
        {"prompt": "instruction", "responses": "generations", "scores": "ratings"},
        "distilabel, UltraFeedback task",
        without=("chosen", "rejected"),
    ),
    known(
        "vertex",
        "scored",
        {
            "prompt": "contents",
            "responses": "completions[*].completion.parts[0].text",
            "scores": "completions[*].score",
            "system?": "systemInstruction.parts[0].text",
        },
        "Vertex AI, preference of Gemini models",
    ),
    known(
        "nemo_rl",
        "scored",
        {"prompt": "context", "responses": "completions[*].completion[-1].content", "scores": "-completions[*].rank"},
        "NeMo RL, preference: rank 0 is the best",
    ),
    _compared("preference_a_b", "response_a", "response_b", _preferred("preference")),
    _compared("label_a_b", "response_a", "response_b", _preferred("label")),
    _compared("preference_a_b_response", "A_response", "B_response", _preferred("preference")),
    _compared("chosen_a_b", "response_a", "response_b", _preferred("chosen")),
    _compared("response1_response2", "response1", "response2", _one_or_two("preference")),
    _compared("preference_1_2", "response_1", "response_2", _one_or_two("preference")),
    _compared("winner_1_2", "response_1", "response_2", _one_or_two("winner")),
    known(
        "piqa",
        "annotated",
        {"prompt": "goal", "output_1": "sol1", "output_2": "sol2", "preference": verdict("label", (0,), (1,))},
        "ybisk/piqa",
    ),
    known(
        "lettered_options",
        "choices",
        {"question": "question", "choices": ("A", "B", "C", "D"), "answer": "answer"},
        "C-Eval, CMMLU and MMLU as tables",
    ),
    known(
        "aqua",
        "choices",
        {"question": "question", "choices": "options", "answer": "correct"},
        "deepmind/aqua_rat",
        types={"options": "texts", "correct": "text"},
        without=("answer", "answerKey", "label"),
    ),
    known(
        "sciq",
        "choices",
        {
            "question": "question",
            "choices": ("correct_answer", "distractor1", "distractor2", "distractor3"),
            "answer": Fixed(value=0),
        },
        "allenai/sciq",
    ),
    _scored("answers_rewards", "prompt", "responses", "rewards", "answers of a reward model: RLHFlow's iterations"),
    _scored(
        "generated_rm_scores",
        "prompt",
        "all_generated_responses",
        "all_rm_scores",
        "all answers of a model, scored",
    ),
    _scored("generations_scores", "prompt", "generations", "scores", "generations and their scores"),
    _scored("generations_ratings", "prompt", "generations", "ratings", "distilabel, generations and their ratings"),
    _scored("generations_rewards", "prompt", "generations", "rewards", "generations and their rewards"),
    _scored("candidates_scores", "prompt", "candidates", "scores", "candidates and their scores"),
    _scored("answers_scores", "question", "answers", "scores", "a question with answers and their scores"),
    _scored("outputs_scores", "prompt", "outputs", "scores", "outputs and their scores"),
    _scored("ranked_answers", "prompt", "responses", "-ranks", "answers and their ranks, 1 is the best"),
)
