"""Vocabulary: every word that the own policy reads or writes, in the order of their token ids.

What belongs here: the closed lists of words. What does not: what a number word means (`codecs`),
what prompts and findings say with the words (`prompts`, `reasons`), and the tokenizer's file
format (`tokenizer`).

The position of a word is its token id, and shipped checkpoints depend on it. A new word is
therefore added at the end of FINDING_WORDS, which is the end of WORDS, and nowhere else.
"""

END = "<end>"
"""Ends a completion."""
PADDING = "<pad>"
THINK, THINK_END = "<think>", "</think>"
ANSWER, ANSWER_END = "<answer>", "</answer>"
TAGS = (THINK, THINK_END, ANSWER, ANSWER_END)

N_NUMBERS = 201
"""Number words. Odd, so that the middle one can mean exactly 0."""
MISSING = "missing"
"""Written for a value that is not known. It stands just before the first number word, so that the
number -1 is its token: id = id of `n0` + number."""
NUMBER_WORDS = tuple(f"n{number}" for number in range(N_NUMBERS))

COUNTS = (*range(101), 120, 128, 144, 168, 192, 288, 336, 365, 512, 672, 720, 1024, 1440)
"""Whole numbers that have a word of their own, for example hours, horizons and seasons."""
MANY = "many"
"""Written for a number without a word of its own."""

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
STEPS = ("second", "minute", "hour", "day", "week", "month", "year", "step")
CHANNEL_KINDS = (
    *("load", "temperature", "usage", "cpu", "memory", "disk", "network", "traffic", "price"),
    *("rate", "volume", "wind", "air", "speed", "pressure", "humidity", "power", "count"),
)
"""What a channel measures, as far as its description says so in one of these words."""
PROMPT_WORDS = ("task", "forecast", "data", "season", "channel", "test", "past", "format")

FINDING_WORDS = (
    # What is spoken of.
    *("level", "amplitude", "peak", "trough", "trend", "spread", "bound", "error", "draft"),
    *("drafts", "answer", "model", "naive", "seasonal", "mean", "median", "last", "backtest"),
    *("value", "history", "context", "deviation", "range", "change", "jump", "shift", "gap"),
    *("noise", "outlier", "difference", "ratio", "average", "correction", "step", "four"),
    # Where and when.
    *("at", "of", "by", "in", "to", "from", "than", "with", "and", "or", "is", "was", "are"),
    *("now", "before", "after", "since", "until", "between", "above", "below", "inside"),
    *("outside", "upper", "lower", "early", "late", "earlier", "later", "start", "end", "first"),
    *("half", "quarter", "third", "hours", "days", "steps", "weeks", "today", "yesterday"),
    *("night", "morning", "noon", "afternoon", "evening", "weekend", "weekday"),
    # How.
    *("up", "down", "flat", "same", "high", "low", "higher", "rising", "falling", "steady"),
    *("constant", "zero", "small", "medium", "large", "smaller", "larger", "very", "little"),
    *("wide", "narrow", "strong", "weak", "short", "long", "good", "bad", "better", "worse"),
    *("best", "worst", "clear", "noisy", "likely", "negative", "positive", "equal", "near", "far"),
    # Verdicts and steps of a reason.
    *("missed", "kept", "exceeded", "repeated", "agrees", "disagrees", "yes", "no", "not", "none"),
    *("all", "some", "few", "both", "but", "so", "because", "keep", "raise", "reduce", "correct"),
    *("add", "use", "take", "choose", "trust", "copy", "follow", "again", "refine", "done"),
    *("wins", "loses", "ties", "other", "unknown", "second", "tie", "win", "lose"),
)
"""What a reason may say, besides number words, counts, weekdays, steps and kinds of channels."""


def _distinct(*groups: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words in their first order, each once: a word may belong to several groups."""
    return tuple(dict.fromkeys(word for group in groups for word in group))


WORDS = _distinct(
    (PADDING, END, *TAGS, MISSING),
    NUMBER_WORDS,
    tuple(str(count) for count in COUNTS),
    (MANY, "think"),
    WEEKDAYS,
    STEPS,
    CHANNEL_KINDS,
    PROMPT_WORDS,
    FINDING_WORDS,
)
"""All of them; the position is the token id."""


def count_word(count: int) -> str:
    """Return the word of a whole number, at least 0."""
    return str(count) if count in COUNTS else MANY
