"""Long texts are tokenized in pieces, and the tokens are those of the whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import datasets
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizerFast, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from warmup.training.data.tokenizers import long_texts
from warmup.training.data.tokenizers.long_texts import encode_pieces, find_cut, shorten, spans
from warmup.training.data.tokenizers.texts import encode_texts
from warmup.training.data.tokenizers.train import train_wordpiece
from warmup.training.data.tokenizers.windows import causal_windows, masked_windows
from warmup.training.data.tokenizers.words import sentence_parts

SYLLABLES = ["ka", "mo", "ri", "the", "ing", "s", "über", "é", "ß", "Σ", "прив", "ет", "1", "23", "456", "don't", "I'm"]
IDEOGRAPHS = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"


def words(source: random.Random) -> str:
    count = source.randint(1, 30)
    return " ".join("".join(source.choices(SYLLABLES, k=source.randint(1, 5))) for _ in range(count))


KINDS: dict[str, Callable[[random.Random], str]] = {
    "words": lambda source: words(source) + source.choice([". ", ", ", "\n", " ", "! ", "  "]),
    "ideographs": lambda source: (
        "".join(source.choices(IDEOGRAPHS, k=source.randint(3, 40))) + source.choice("。，、！")
    ),
    "symbols": lambda source: "".join(source.choices("😀🎉—…“”«»%$&*()[]{}<>/\\|#@^~`\"'", k=source.randint(1, 20))),
    "blanks": lambda source: "".join(source.choices(" \t\n\r\u3000\u00a0", k=source.randint(1, 30))),
    "accents": lambda source: "".join(source.choices(["a", "e", "o\u0301", "u\u0308", "i\u0301\u0302"], k=15)),
    "special": lambda source: source.choice(["[MASK]", " [SEP] ", "[PAD]x", "<mask>", " <mask> "]),
    "digits": lambda source: "".join(source.choices("0123456789", k=source.randint(1, 200))),
    "runs": lambda source: source.choice("ax-=_ \n中") * source.randint(1, 300),
}


def text(source: random.Random, length: int, *kinds: str) -> str:
    parts: list[str] = []
    while sum(map(len, parts)) < length:
        parts.append(KINDS[source.choice(kinds or list(KINDS))](source))
    return "".join(parts)


CORPUS = [text(random.Random(seed), 2000) for seed in range(40)]
CORPUS += [text(random.Random(seed), 2000, "words", "ideographs") for seed in range(40, 80)]


def trained(tokenizer: Tokenizer, trainer: trainers.Trainer, **special: str) -> PreTrainedTokenizerBase:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def wordpiece() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special))
    return BertTokenizerFast(vocab=tokenizer.get_vocab())


def byte_level(prefix: bool = False) -> PreTrainedTokenizerBase:
    """As GPT-2's, or with a space before the first word as RoBERTa's may be."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, special_tokens=["<end>", "<mask>"])
    return trained(tokenizer, trainer, eos_token="<end>", mask_token="<mask>")


def digits_by_three() -> PreTrainedTokenizerBase:
    """With the expression of Llama 3, which counts digits from the beginning of a number."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet))


def prepending() -> PreTrainedTokenizerBase:
    """As Llama 2's: nothing parts words, and the mark of a word is put before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    result = trained(tokenizer, trainers.BpeTrainer(vocab_size=1500, special_tokens=["<unk>"]), unk_token="<unk>")
    result.backend_tokenizer.pre_tokenizer = None
    return result


def sentencepiece() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return trained(tokenizer, trainers.UnigramTrainer(vocab_size=1000, unk_token="<unk>", special_tokens=["<unk>"]))


TOKENIZERS = {
    "WordPiece": wordpiece,
    "byte level": byte_level,
    "byte level with a prefix": lambda: byte_level(prefix=True),
    "digits by three": digits_by_three,
    "prepending": prepending,
    "SentencePiece": sentencepiece,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_pieces_of_a_text_have_its_tokens(name: str) -> None:
    """Whatever it holds; SentencePiece breaks ties between divisions of a run by the rounding of a sum from the text's
    beginning, so it gets none.
    """
    tokenizer, source, parts_words = TOKENIZERS[name](), random.Random(7), name in ("WordPiece", "byte level")
    kinds = ["words", "ideographs", "digits"] if name == "SentencePiece" else list(KINDS)
    for chosen in (kinds, *([kind] for kind in kinds)):
        texts = [text(source, 9000, *chosen), "short", "", text(source, 5000, *chosen)]
        pieces = list(encode_pieces(texts, tokenizer, True, size=2000))
        whole = tokenizer(texts, add_special_tokens=False)
        for row, ids in enumerate(whole["input_ids"]):
            own = [piece for piece in pieces if piece.row == row]
            equal = [token for piece in own for token in piece.ids] == ids
            assert equal, f"{chosen}, row {row}"  # (pytest would take minutes to show how they differ)
            assert [piece.is_last for piece in own] == [False] * (len(own) - 1) + [True]
            if parts_words and chosen == ["words"]:
                numbers = [word for piece in own for word in piece.words]
                assert [a != b for a, b in pairwise(numbers)] == [a != b for a, b in pairwise(whole.word_ids(row))]
        if len(chosen) > 1 or chosen in (["words"], ["ideographs"]):
            assert len(pieces) >= 8


@pytest.mark.parametrize("length", [7, 40])
def test_windows_of_long_documents(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not depend on the pieces, nor on what is tokenized at once."""
    source = random.Random(3)
    batch = {"text": [text(source, size) for size in (10, 9000, 1, 4000)] + [""]}
    functions = masked_windows(wordpiece(), length, True), masked_windows(byte_level_bert(), length), None
    functions = *functions[:2], causal_windows(byte_level(), length)
    whole = [joined(tokenize(batch)) for tokenize in functions]
    monkeypatch.setattr(encode_pieces, "__defaults__", (False, 1500, False))
    monkeypatch.setattr(long_texts, "BATCH", 3000)
    monkeypatch.setattr("warmup.training.data.tokenizers.windows.TOKENS", 700)
    for tokenize, expected in zip(functions, whole, strict=True):
        assert len(list(tokenize(batch))) > 3
        assert joined(tokenize(batch)) == expected


def byte_level_bert() -> PreTrainedTokenizerBase:
    tokenizer = byte_level()
    tokenizer.cls_token = tokenizer.sep_token = "<end>"
    return tokenizer


def joined(parts: object) -> dict[str, list]:
    columns: dict[str, list] = {}
    for part in parts:  # type: ignore[attr-defined]
        for name, values in part.items():
            columns.setdefault(name, []).extend(values)
    return columns


def test_a_text_without_a_place_to_cut_is_cut_all_the_same() -> None:
    tokenizer = wordpiece()
    (piece,) = encode_pieces(["a" * 100_000], tokenizer)  # one word, which is unknown
    assert piece.ids == [tokenizer.unk_token_id]
    assert [end - start for start, end in spans("a" * 10_000, 100, lambda *_: None)] == [1700] * 5 + [1500]
    assert find_cut("ab " * 40, 10, 20, lambda *_: "word") == 11


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncated_texts_have_the_tokens_of_the_whole(side: str) -> None:
    """Of which only an end is tokenized."""
    source, tokenizer = random.Random(5), wordpiece()
    tokenizer.truncation_side = side
    rows = [text(source, size, "words", "ideographs", "symbols") for size in (8_000, 50, 2_500, 5_000)]
    rows.append(" " * 9_000 + rows[0][:2_500] + " " * 9_000)  # what is needed comes late
    assert max(len(shorten(row, 64, tokenizer, side == "left")) for row in rows[:4]) <= 2048
    for pairs in (None, rows[::-1]):
        encoded, columns = encode_texts({"text": rows, "pair": pairs or [None] * 5}, tokenizer, 64)
        whole = tokenizer(rows, pairs, truncation="longest_first", max_length=64)
        assert columns["ids"] == whole["input_ids"]
        assert [bool(part.overflowing) for part in encoded.encodings or ()] == [
            bool(part.overflowing) for part in whole.encodings or ()
        ]


def test_long_sentences_are_tokenized_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    source, tokenizer = random.Random(9), train_words()
    sentences = [words(source).split() for _ in range(5)] + [["a" * 500_000, "b"]]
    sentences[2] *= 40
    whole = list(sentence_parts(sentences, tokenizer, 20))
    monkeypatch.setattr("warmup.training.data.tokenizers.words._SLICE", 7)
    monkeypatch.setattr("warmup.training.data.tokenizers.words.BATCH", 100)
    assert list(sentence_parts(sentences, tokenizer, 20)) == whole
    assert len(whole) > 30


def train_words(*kinds: str) -> PreTrainedTokenizerBase:
    rows = [text(random.Random(seed), 3000, *kinds) for seed in range(20)]
    return train_wordpiece(datasets.Dataset.from_dict({"text": rows}), 500)


def test_a_tokenizer_is_the_same_whether_its_texts_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_words("words").backend_tokenizer.to_str()
    monkeypatch.setattr("warmup.training.data.tokenizers.train.PIECE", 300)
    assert train_words("words").backend_tokenizer.to_str() == whole
