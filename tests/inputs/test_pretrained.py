"""hf:DIR: classifiers and processors that transformers saved, and the sentence for each mistake."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from pdepth import inputs
from pdepth.inputs import load_model, load_processor

from helpers.image_files import pixels
from helpers.pretrained import CLASSES, classifier, example, save_folder

transformers = pytest.importorskip("transformers")


def logits(model, kind):
    with torch.no_grad():
        return model(**example(kind)).logits


@pytest.mark.parametrize("kind", ["vit", "resnet", "bert", "gpt2", "wav2vec2"])
def test_a_saved_classifier_is_the_same_network(tmp_path, kind):
    trained = save_folder(tmp_path, kind)
    model = load_model(f"hf:{tmp_path}")
    assert type(model) is type(trained)
    assert not model.training
    assert torch.equal(logits(model, kind), logits(trained, kind))
    assert inputs.network_classes(model) == ["no", "yes", "perhaps"]
    assert inputs.is_pretrained(f"hf:{tmp_path}")


def test_weights_keep_the_type_they_were_saved_in(tmp_path):
    classifier("vit").bfloat16().save_pretrained(tmp_path)
    assert load_model(f"hf:{tmp_path}").dtype == torch.bfloat16


def test_shards(tmp_path):
    trained = classifier("bert")
    trained.save_pretrained(tmp_path, max_shard_size="8KB")
    index = tmp_path / "model.safetensors.index.json"
    assert len(set(json.loads(index.read_text())["weight_map"].values())) > 1
    assert torch.equal(logits(load_model(f"hf:{tmp_path}"), "bert"), logits(trained, "bert"))
    for path in (tmp_path, index):
        state = inputs.read_state(path)
        assert set(state) == set(trained.state_dict())
        assert all(torch.equal(state[name], t) for name, t in trained.state_dict().items())
    shard = sorted(tmp_path.glob("*-of-*"))[0]
    shard.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"expected the shard {shard.name} that .*copy all"
    ):
        inputs.read_state(index)


def test_weights_of_a_checkpoint_replace_those_of_the_folder(tmp_path):
    save_folder(tmp_path, "bert")
    (tmp_path / "model.safetensors").unlink()
    torch.manual_seed(5)
    tuned = transformers.BertForSequenceClassification(classifier("bert").config).eval()
    state = {f"model.{name}": tensor for name, tensor in tuned.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    model = load_model(f"hf:{tmp_path}", tmp_path / "last.ckpt")
    assert not model.training
    assert torch.equal(logits(model, "bert"), logits(tuned, "bert"))
    with pytest.raises(
        FileNotFoundError, match="expected weights in .*; save them with model.save"
    ):
        load_model(f"hf:{tmp_path}")
    assert type(load_model(f"hf:{tmp_path}", untrained=True)) is type(tuned)


@pytest.mark.parametrize("shards", [False, True])
def test_damaged_weights_of_a_folder_are_refused(tmp_path, shards):
    trained = save_folder(tmp_path, "bert")
    (tmp_path / "model.safetensors").unlink()
    state = trained.state_dict()
    name = "bert.embeddings.word_embeddings.weight"
    file = tmp_path / "pytorch_model.bin"
    if shards:
        files = dict.fromkeys(state, "a.bin") | {name: "b.bin"}
        for shard in ("a.bin", "b.bin"):
            torch.save({k: v for k, v in state.items() if files[k] == shard}, tmp_path / shard)
        index = {"metadata": {"total_size": 0}, "weight_map": files}
        file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))
        file = tmp_path / "b.bin"
    else:
        torch.save(state, file)
    assert torch.equal(logits(load_model(f"hf:{tmp_path}"), "bert"), logits(trained, "bert"))
    values = state[name].numpy()
    content = file.read_bytes()
    assert content.count(values.tobytes()) == 1
    file.write_bytes(content.replace(values.tobytes(), (-values).tobytes()))
    (tmp_path / "training_args.bin").write_bytes(b"PK\3\4 of a training")  # which is not read
    with pytest.raises(ValueError, match=rf"^MODEL hf: expected {file} as torch.save wrote it"):
        load_model(f"hf:{tmp_path}")


def test_image_processor(tmp_path):
    save_folder(tmp_path, "vit")
    processor = load_processor(f"hf:{tmp_path}")
    assert inputs.reads_images(processor)
    options = inputs.ImageOptions.for_processor(processor)
    assert (options.raw, len(options.mean)) == (True, 3)
    image = pixels(8, 8, 3)
    values = np.asarray(processor(images=[image], return_tensors="pt")["pixel_values"])
    expected = ((image / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.2, 0.3]).transpose(2, 0, 1)
    np.testing.assert_allclose(values[0], expected, rtol=1e-4, atol=1e-5)


def test_tokenizer_and_feature_extractor(tmp_path):
    save_folder(tmp_path / "text", "bert")
    tokenizer = load_processor(f"hf:{tmp_path / 'text'}")
    ids = tokenizer(["good film", "so so bad"], padding=True)["input_ids"]
    assert [len(row) for row in ids] == [3, 3]
    assert ids[0][-1] == tokenizer.pad_token_id
    assert not inputs.reads_images(tokenizer)
    save_folder(tmp_path / "sound", "wav2vec2")
    extractor = load_processor(f"hf:{tmp_path / 'sound'}")
    assert "input_values" in extractor([[0.0] * 400], sampling_rate=16000)
    assert not inputs.reads_images(extractor)


def test_names_that_transformers_makes_up_are_none():
    model = classifier("vit")
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    assert inputs.network_classes(model) is None
    model.config.id2label = {0: "a", 2: "b"}
    assert inputs.network_classes(model) is None
    assert inputs.network_classes(torch.nn.Linear(2, 2)) is None


def test_folders_without_a_classifier(tmp_path):
    headless = transformers.BertModel(classifier("bert").config)
    headless.save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="expected a classifier of images, .*got BertModel; fine-"):
        load_model(f"hf:{tmp_path / 'headless'}")
    config = tmp_path / "headless" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(
        ValueError, match=r"got 2 missing \(first: classifier.bias\); save the fine"
    ):
        load_model(f"hf:{tmp_path / 'headless'}")
    config.write_text(json.dumps(content | {"model_type": "unheard_of"}))
    with pytest.raises(ValueError, match="knows, got an error .*; code from the folder is not run"):
        load_model(f"hf:{tmp_path / 'headless'}")


def test_code_of_the_folder_is_not_run(tmp_path):
    save_folder(tmp_path, "bert")
    (tmp_path / "mine.py").write_text("raise SystemExit('run')")
    config = json.loads((tmp_path / "config.json").read_text())
    auto = {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model"}
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"auto_map": auto, "model_type": "mine"})
    )
    with pytest.raises(ValueError, match="code from the folder is not run"):
        load_model(f"hf:{tmp_path}")


def test_weights_of_another_shape(tmp_path):
    save_folder(tmp_path, "bert")
    content = json.loads((tmp_path / "config.json").read_text())
    wider = content | {"id2label": {str(n): str(n) for n in range(5)}, "label2id": {}}
    (tmp_path / "config.json").write_text(json.dumps(wider))
    with pytest.raises(ValueError, match="MODEL hf: expected .*save"):
        load_model(f"hf:{tmp_path}")


def test_folder_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected an existing folder, got .*gone; save a"):
        load_model(f"hf:{tmp_path / 'gone'}")
    with pytest.raises(FileNotFoundError, match=r"expected config\.json in .*, got none; save one"):
        load_model(f"hf:{tmp_path}")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="got an adapter; save one with .*merge_and_unload"):
        load_model(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("no json")
    with pytest.raises(ValueError, match="expected a configuration in .*got an error"):
        load_model(f"hf:{tmp_path}")
    with pytest.raises(ValueError, match="processor: expected hf:DIR, got 'resnet18'"):
        load_processor("resnet18")
    classifier("vit").save_pretrained(tmp_path / "alone")
    with pytest.raises(FileNotFoundError, match=r"expected preprocessor_config.json in .*got none"):
        load_processor(f"hf:{tmp_path / 'alone'}")


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"hf: needs transformers: pip install 'pdepth\[trans"):
        load_model(f"hf:{tmp_path}")


def test_class_names_of_the_saved_configuration():
    assert dict(enumerate(inputs.network_classes(classifier("vit")) or ())) == CLASSES
