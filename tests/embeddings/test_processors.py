"""Tokenizers, image processors and callables give what they give when called by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pdepth.embeddings.dataset import Batches, DataOptions

from helpers.rows import (
    LABELS,
    WORDS,
    assert_batches,
    image_processor,
    pictures,
    read,
    tensors,
    tokenizer,
)

COLUMNS = {"text": WORDS, "label": LABELS}
SECONDS = WORDS[::-1]


def rows_of(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def assert_calls(batches, call, size=4):
    """Batches are what `call` gives of the rows' numbers, {name: tensor}."""
    for number, batch in enumerate(batches):
        wanted = call(slice(number * size, (number + 1) * size))
        mine = tensors(batch)
        assert mine.keys() == wanted.keys()
        assert all(torch.equal(mine[name], wanted[name]) for name in wanted)
        assert batch.labels.tolist() == LABELS[number * size : (number + 1) * size]
    assert sum(len(batch.labels) for batch in batches) == len(LABELS)


@pytest.mark.parametrize("workers", [0, 1])
def test_text_is_padded_to_the_longest_of_its_batch(workers):
    mine = tokenizer()

    def call(rows):
        return mine(WORDS[rows], padding=True, truncation=True, return_tensors="pt")

    pairs = list(zip(WORDS, LABELS, strict=True))
    for data in (rows_of(COLUMNS), COLUMNS, pairs):
        batches = read(data, processor=mine)
        assert_calls(batches, call)
        assert [batch.inputs.kwargs["input_ids"].shape[1] for batch in batches] == [6, 4]
        loader = DataLoader(data, 4, True, num_workers=workers) if data is not COLUMNS else data
        assert_calls(read(loader, processor=mine), call)
    source = Batches(pairs, "support", 2, DataOptions(processor=mine))
    assert source.varies
    assert not Batches([("bad", 0)] * 4, "support", 2, DataOptions(processor=mine)).varies
    assert [batch.inputs.rows for _, batch in source.again([2, 1])] == [2, 2]


@pytest.mark.parametrize(
    "names",
    [("sentence1", "sentence2"), ("premise", "hypothesis"), ("text_a", "text_b"), ("0", "1"),
     ("question", "sentence"), ("text", "text_pair")],
)  # fmt: skip
def test_pairs_of_texts(names):
    mine = tokenizer()

    def call(rows):
        return mine(WORDS[rows], SECONDS[rows], padding=True, truncation=True, return_tensors="pt")

    first, second = names
    data = rows_of({first: WORDS, second: SECONDS, "id": range(6), "label": LABELS})
    assert_calls(read(data, processor=mine), call)
    turned = rows_of({second: SECONDS, first: WORDS, "label": LABELS})
    if names != ("0", "1"):
        assert_calls(read(turned, processor=mine), call)
    both = list(zip(zip(WORDS, SECONDS, strict=True), LABELS, strict=True))
    assert_calls(read(both, processor=mine), call)


def test_texts_that_are_no_pair():
    data = rows_of({"text": WORDS, "source": SECONDS, "label": LABELS})
    sentence = (
        "support: expected one column of text, or two like text and text_pair, got 'text', "
        r"'source'; keep the one to read: dataset\.select_columns\(\['text', 'label'\]\)"
    )
    with pytest.raises(ValueError, match=sentence):
        read(data, processor=tokenizer())


def test_lists_of_token_ids_are_padded():
    mine = tokenizer()
    ids = [mine(text).input_ids for text in WORDS]

    def call(rows):
        return mine.pad({"input_ids": ids[rows]}, padding=True, return_tensors="pt")

    columns = {"input_ids": ids, "label": LABELS, "idx": range(6), "text": WORDS}
    assert_calls(read(rows_of(columns), processor=mine), call)
    assert_calls(read(rows_of(columns), processor=mine, batch_size=1), call, size=1)
    tensor_rows = rows_of(columns | {"input_ids": [torch.tensor(row) for row in ids]})
    assert_calls(read(tensor_rows, processor=mine), call)
    assert_calls(read(list(zip(ids, LABELS, strict=True)), processor=mine), call)


def test_what_a_loader_has_padded_stays_as_it_is():
    mine = tokenizer()
    encoded = mine(WORDS, padding=True, return_tensors="pt")

    def collate(rows):
        ids = torch.stack([row["input_ids"] for row in rows])
        return {"input_ids": ids, "labels": [row["label"] for row in rows]}

    data = rows_of({"input_ids": list(encoded.input_ids), "label": LABELS})
    loader = DataLoader(data, 4, collate_fn=collate)
    assert_batches(read(loader, processor=mine), {"input_ids": encoded.input_ids}, LABELS)


def test_a_batch_encoding_is_a_dataset():
    mine = tokenizer()
    encoded = mine(WORDS, padding=True, return_tensors="pt")
    encoded["labels"] = torch.tensor(LABELS)
    wanted = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    assert_batches(read(encoded), wanted, LABELS)
    del encoded["labels"]
    sentence = "with the keys 'input_ids', 'attention_mask'; pass label_column="
    with pytest.raises(ValueError, match=sentence):
        read(encoded)
    ragged = mine(WORDS)
    ragged["labels"] = LABELS
    assert_calls(
        read(ragged, processor=mine),
        lambda rows: mine(WORDS[rows], padding=True, return_tensors="pt"),
    )


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_datasets_of_token_ids(form):
    datasets = pytest.importorskip("datasets")
    mine = tokenizer()
    data = datasets.Dataset.from_dict(COLUMNS)
    data = data.map(lambda row: mine(row["text"], truncation=True), batched=True).with_format(form)
    assert_calls(
        read(data, processor=mine),
        lambda rows: mine(WORDS[rows], padding=True, truncation=True, return_tensors="pt"),
    )
    with pytest.raises(ValueError, match="token ids in 'input_ids'; pass processor=tokenizer"):
        read(data)


def test_datasets_with_torch_format():
    datasets = pytest.importorskip("datasets")
    x = torch.randn(6, 3)
    data = datasets.Dataset.from_dict({"x": x.tolist(), "label": LABELS})
    assert_batches(read(data.with_format("torch")), {"x": x}, LABELS)
    assert_batches(read(data), {"x": x.double()}, LABELS)
    assert_batches(read(data.to_iterable_dataset().with_format("torch")), {"x": x}, LABELS)
    splits = datasets.DatasetDict(train=data, test=data)
    with pytest.raises(TypeError, match=r"got a DatasetDict of 'train', 'test'; pass support\['tr"):
        read(splits)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_go_through_the_image_processor(mode):
    mine, images = image_processor(), pictures(mode)

    def call(rows):
        return mine(images=[image.convert("RGB") for image in images[rows]], return_tensors="pt")

    def png(image):
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    pairs = list(zip(images, LABELS, strict=True))
    encoded = [png(image) for image in images]
    for data in (
        pairs,
        DataLoader(pairs, 4, shuffle=True, num_workers=1),
        rows_of({"image": images, "name": WORDS, "label": LABELS}),
        rows_of({"image": encoded, "label": LABELS}),
        rows_of({"image": [{"bytes": e, "path": None} for e in encoded], "label": LABELS}),
    ):
        assert_calls(read(data, processor=mine), call)
    with pytest.raises(ValueError, match=r"got images that .*; pass processor=image_processor"):
        read(pairs)


def test_images_of_a_datasets_column():
    datasets = pytest.importorskip("datasets")
    mine, images = image_processor(), pictures()
    columns = {"img": images, "coarse": [0] * 6, "fine": LABELS}
    data = datasets.Dataset.from_dict(columns).cast_column("img", datasets.Image())
    undecoded = data.cast_column("img", datasets.Image(decode=False))
    for each in (data, undecoded, data.with_format("torch"), data.with_format("numpy")):
        assert_calls(
            read(each, processor=mine, label_column="fine"),
            lambda rows: mine(images=images[rows], return_tensors="pt"),
        )

    def processed(batch):
        return dict(mine(images=batch["img"], return_tensors="pt")) | {"labels": batch["fine"]}

    assert_calls(
        read(data.with_transform(processed)),
        lambda rows: mine(images=images[rows], return_tensors="pt"),
    )


def test_encoded_images_are_turned_and_scaled():
    """As `datasets` turns them, and as 16 bits a value are meant."""
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[274] = 6
    mine, deep = image_processor(), np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    file = io.BytesIO()
    image.fromarray(deep).save(file, "PNG", exif=exif)
    upright = np.rint(np.rot90(deep, -1) / 257).astype(np.uint8)
    expected = mine(images=[image.fromarray(upright).convert("RGB")], return_tensors="pt")
    data = rows_of({"image": [file.getvalue()], "label": [0]})
    (batch,) = read(data, processor=mine)
    assert torch.equal(batch.inputs.kwargs["pixel_values"], expected["pixel_values"])


def test_arrays_as_images():
    mine = image_processor()
    arrays = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), np.uint8)
    assert_calls(
        read(list(zip(arrays, LABELS, strict=True)), processor=mine),
        lambda rows: mine(images=list(arrays[rows]), return_tensors="pt"),
    )
    scaled = list(zip(arrays.astype(np.float32) / 255, LABELS, strict=True))
    with pytest.raises(ValueError, match=r"expected images as bytes .*, got torch\.float32"):
        read(scaled, processor=mine)


def test_two_columns_of_images():
    data = rows_of({"image": pictures(), "mask": pictures(), "label": LABELS})
    with pytest.raises(ValueError, match="one column of images, got 'image', 'mask'; keep"):
        read(data, processor=image_processor())


def test_sounds_go_through_the_feature_extractor():
    transformers = pytest.importorskip("transformers")
    mine = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=True)
    rng = np.random.default_rng(0)
    sounds = [rng.standard_normal(20 + n).astype(np.float32) for n in range(6)]

    def call(rows):
        return mine(sounds[rows], sampling_rate=8000, padding=True, return_tensors="pt")

    audio = [{"array": sound, "sampling_rate": 8000, "path": None} for sound in sounds]
    assert_calls(read(rows_of({"audio": audio, "label": LABELS}), processor=mine), call)
    assert_calls(read(list(zip(sounds, LABELS, strict=True)), processor=mine), call)
    audio[1]["sampling_rate"] = 16000
    with pytest.raises(ValueError, match="of one sampling rate, got 8000 and 16000 Hz; resample"):
        read(rows_of({"audio": audio, "label": LABELS}), processor=mine)


def test_a_joint_processor_is_the_one_that_rows_need():
    class Joint:
        tokenizer, image_processor = tokenizer(), image_processor()

        def __call__(self):
            raise AssertionError

    texts = read(COLUMNS, processor=Joint())
    assert list(texts[0].inputs.kwargs) == ["input_ids", "attention_mask"]
    images = read({"image": pictures(), "name": WORDS, "label": LABELS}, processor=Joint())
    assert list(images[0].inputs.kwargs) == ["pixel_values"]


def test_any_other_callable():
    lengths = torch.tensor([len(text) for text in WORDS])
    read_texts = read(COLUMNS, processor=lambda texts: torch.tensor([[len(t)] for t in texts]))
    assert_batches(read_texts, {"0": lengths[:, None]}, LABELS)
    named = read(COLUMNS, processor=lambda texts: {"n": np.array([[len(t)] for t in texts])})
    assert_batches(named, {"n": lengths[:, None]}, LABELS)

    images = pictures()
    widths = torch.tensor([[image.height] for image in images])
    one_by_one = read(
        list(zip(images, LABELS, strict=True)), processor=lambda image: torch.tensor([image.height])
    )
    assert_batches(one_by_one, {"0": widths}, LABELS)
    x = torch.randn(6, 3)
    doubled = read({"x": x, "label": LABELS}, processor=lambda row: 2 * row)
    assert_batches(doubled, {"0": 2 * x}, LABELS)
    transforms = pytest.importorskip("torchvision.transforms")
    resized = transforms.Compose([transforms.Resize((4, 4)), transforms.ToTensor()])
    by_hand = torch.stack([resized(image) for image in images])
    assert_batches(
        read(list(zip(images, LABELS, strict=True)), processor=resized), {"0": by_hand}, LABELS
    )
    with pytest.raises(ValueError, match=r"rows of one shape in a batch, got .*; resize or pad"):
        read(list(zip(images, LABELS, strict=True)), processor=transforms.ToTensor())


def test_processors_that_cannot_take_the_rows():
    x = torch.randn(6, 3)
    with pytest.raises(ValueError, match="expected text or token ids under 'input_ids' for "):
        read({"x": x, "label": LABELS}, processor=tokenizer())
    with pytest.raises(ValueError, match=r"images for ViTI.*, got rows of shape \(3,\) in"):
        read({"x": x, "label": LABELS}, processor=image_processor())
    with pytest.raises(ValueError, match="images for ViTImageProcessor, got text in 'text'"):
        read(COLUMNS, processor=image_processor())
    with pytest.raises(TypeError, match="processor: expected a tokenizer, .* got a int"):
        read(COLUMNS, processor=3)
    mine = tokenizer(pad=None)
    with pytest.raises(ValueError, match=f"error of {type(mine).__name__}: .* padding") as caught:
        read(COLUMNS, processor=mine)
    assert isinstance(caught.value.__cause__, ValueError)
