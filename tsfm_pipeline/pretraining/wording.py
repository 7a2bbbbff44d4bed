"""Write the sentences about a checkpoint that its report and its card share.

What belongs here: sentences. What does not: tables (`tables`) and the two documents (`report`,
`card`).
"""

from typing import Any


def summary_sentence(bars: list[dict[str, Any]]) -> str:
    """Say how many bars are reached, and which are missed."""
    missed = [bar["title"] for bar in bars if bar["verdict"] == "missed"]
    aims = sum(bar["verdict"] == "aim reached" for bar in bars)
    text = (
        f"{len(bars) - len(missed)} of {len(bars)} bars are reached, {aims} of them with the "
        "figure aimed for."
    )
    return text + (f" Missed: {'; '.join(missed)}." if missed else "")


def context_sentences(measured: dict[str, Any]) -> str:
    """Say how the context of each group of data was chosen."""
    chosen = ", ".join(
        f"{group} {context}" for group, context in measured["chosen_context"].items()
    )
    return (
        f"Context: of {', '.join(measured['contexts'])}, the one with the least mean loss on the "
        "*other* groups of data (ett, smd, asd, "
        f"nab), each relative to its best: {chosen}. The figures of all of them stand beside the "
        "chosen one's."
    )


def reproduction_sentences(measured: dict[str, Any]) -> str:
    """Say which reference figures our evaluation code reproduces, and which cannot be compared."""
    checked = measured["reproduction"]
    incomplete = "; ".join(checked["incomplete_groups"])
    return (
        f"Evaluation code: {checked['n_figures']} figures of last value and seasonal naive equal "
        "those of an independent implementation to "
        f"{checked['largest_relative_deviation']:.0e} (checked before any figure of the model is "
        "computed). "
        + (
            f"Not comparable figure by figure, and bracketed by medians instead: {incomplete}. "
            if incomplete
            else ""
        )
        + "Last value + change quantiles, whose samples are not published exactly, agrees to "
        + f"{checked['change_quantiles_largest_relative_deviation']:.1%}."
    )
