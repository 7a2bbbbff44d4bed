"""The own policy's tokenizer: one token per word of the closed vocabulary.

What belongs here: the tokenizer in the file format of transformers, and what kind of word a token
is. What does not: the words (`vocabulary`).
"""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tsfm_pipeline.studies.time_r1.vocabulary import END, NUMBER_WORDS, PADDING, TAGS, WORDS


def own_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: white space separates words, decoding puts one space between them, and
    a word outside of the vocabulary raises. Prompts are padded on the left, for generation.
    """
    words = {word: index for index, word in enumerate(WORDS)}
    # Without the named word in the vocabulary, an unknown word is an error instead of a token.
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def number_ids() -> range:
    """Return the token ids of `n0`, `n1` and so on: the id of a number is the first plus it."""
    first = WORDS.index(NUMBER_WORDS[0])
    return range(first, first + len(NUMBER_WORDS))


def word_kinds() -> Tensor:
    """Return the kind of each token, int64 [words]: 0 for words, 1 for numbers, and one of its own
    for each tag, the end and the padding. In a completion of the right form, only tokens of one
    kind may stand in each other's place.
    """
    kinds = torch.zeros(len(WORDS), dtype=torch.int64)
    numbers = number_ids()
    kinds[numbers.start : numbers.stop] = 1
    for kind, word in enumerate((PADDING, END, *TAGS), start=2):
        kinds[WORDS.index(word)] = kind
    return kinds


def as_asked(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return a prompt as a model reads it: as what a user says, if there is a chat template."""
    if tokenizer.chat_template is None:
        return prompt
    said = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False))
