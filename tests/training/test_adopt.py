"""Teachers from elsewhere: what is listed, where they are looked for, and what the stage makes of them."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdcore import checkpoints, networks
from kdcore.data import storage
from kdcore.data.dataset import Split
from kdcore.data.sources import digits
from kdcore.fetch import download
from kdcore.matrix import cards, data_section, params, teacher_cards
from kdcore.matrix.listed_teachers import KnownTeachers
from kdcore.results import captions
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import whole
from kdcore.training import checked_teacher, experiment, inference, loop, run_folder
from kdcore.training.adopt import NoSourceError, _torchvision, adopt_teacher, check_fits
from tests.once import code
from tests.pipeline.test_stages import call
from tests.project import PARAMS, ROOT
from tests.reference import FOLDER, needs_reference
from tests.server import serving

CPU = torch.device("cpu")
LISTED = yamlfile.read(ROOT / "data/teachers.yaml")
MODELS = "https://download.pytorch.org/models"
QUICK = download.Patience(attempts=2, first_wait=0.01, longest_wait=0.01, silence=10)
MEMBER = "cifar_teachers/resnet8_vanilla/ckpt_epoch_240.pth"
TRAIN = {"epochs": 2, "batch_size": 8, "lr": 0.05, "weight_decay": 0.0, "schedule": "cosine", "precision": "float32"}


def matrix(**teacher):
    """A matrix on the digits with one teacher."""
    content = yamlfile.read(PARAMS)
    data = {"name": "digits", "source": "embedded", "image_size": 16, "train_per_class": 1}
    changes = {"pairs": ["resnet8-resnet8"], "teachers": {"resnet8": teacher}, "data": data, "train": TRAIN}
    return params.Params.model_validate({**content, **changes})


def listing(*sources, top1=10.0, tolerance=10.0):
    """Content of a data/teachers.yaml that lists one network of the digits."""
    of_digits = {"resnet8": {"published_top1": top1, "sources": list(sources)}}
    return {"tolerance": tolerance, "teachers": {"digits": of_digits}}


def card(*sources, source="published", top1=10.0, **teacher):
    """The card of that teacher, planned in the current folder."""
    made = cards.make_cards(
        matrix(source=source, **teacher),
        published_recipes=yamlfile.read(ROOT / "data/recipes.yaml"),
        known_teachers=listing(*sources, top1=top1),
    )
    return made["teacher/resnet8"]


def pickled(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def tar(**members):
    """Of files with these contents; of links and devices, by their types."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if len(content) == 1 and content.isdigit():
                info.type, info.linkname = content, MEMBER
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def weights():
    torch.manual_seed(0)
    return networks.create("resnet8", 10).state_dict()


CHECKPOINT = pickled({"model": weights(), "epoch": 240})
ARCHIVE = tar(**{MEMBER: CHECKPOINT, "cifar_teachers/other.pth": b"other"})
PAGE = b"<!DOCTYPE html>\n<html><body>Sign in first</body></html>"


class Order:
    """Pickles as a call that a careless reader would make."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def shrunk(content):
    """A checkpoint whose files are compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return file.getvalue()


ORDERS = pickled({"model": weights(), "epoch": Order()})
BOMB = shrunk(pickled({"model": weights(), "zeros": torch.zeros(10**7)}))


@pytest.fixture
def site():
    with serving() as site:
        yield site


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cards, "Code", code)
    return tmp_path


@pytest.fixture
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=1)


@pytest.fixture
def adopt(folder, dataset):
    """Carry a card out in the current folder; returns what was recorded."""

    def adopt(made):
        top1 = adopt_teacher(made, dataset, folder / "out", CPU, patience=QUICK)
        meta = run_folder.read_meta(folder / "out")
        assert meta["top1"] == pytest.approx(top1, abs=1e-4)
        assert {key: meta[key] for key in made} == made
        network = networks.create("resnet8", 10)
        checkpoints.load(folder / "out" / run_folder.WEIGHTS, network)
        assert all(torch.equal(value, weights()[key]) for key, value in network.state_dict().items())
        return meta

    return adopt


class TestListing:
    def test_networks_of_the_papers(self):
        known = KnownTeachers.of(LISTED)
        archived = ["resnet56", "resnet110", "resnet32x4", "resnet50", "wrn_40_2", "vgg13"]
        for name in archived:
            first, second = known.find("cifar100", name).sources
            published_name = name.replace("resnet50", "ResNet50")
            assert first.archive.endswith("megvii-research/mdistiller/releases/download/checkpoints/cifar_teachers.tar")
            assert first.member == f"cifar_teachers/{published_name}_vanilla/ckpt_epoch_240.pth"
            assert second.address.endswith(f"/{published_name}_vanilla/ckpt_epoch_240.pth")
            assert first.weights_key == second.weights_key == "model"
            assert first.sha256 == second.sha256
        assert known.find("cifar100", "vgg13").published_top1 == 74.64
        for size, published_top1 in (("16_4", 77.51), ("28_2", 75.45), ("28_4", 78.60)):
            listed = known.find("cifar100", f"wrn_{size}")
            (source,) = listed.sources
            assert listed.published_top1 == published_top1
            assert source.by_hand.endswith("/sunshangquan/logit-standardization-KD/releases/tag/extra_teacher_weights")
            assert source.weights_key == "model"
        for name in ("imagenet_resnet34", "imagenet_resnet50"):
            assert known.find("imagenet", name).sources[0].torchvision.endswith("_Weights.IMAGENET1K_V1")
        assert all("pan.baidu.com" in known.find("cub200", name).sources[0].by_hand for name in ("vgg13", "resnet50"))
        assert known.find("tiny_imagenet", "resnet18").published_top1 is None
        assert known.find("digits", "resnet8") is None

    @needs_reference
    @pytest.mark.parametrize("file", ["teachers.yaml", "teachers2.yaml"])
    def test_nothing_contradicts_the_reference(self, file):
        """Accuracies, addresses, members of archives and keys of weights, of every network that the zoo has. Where the
        reference has other weights of a network, whose accuracy nobody said, they are not listed.
        """
        reference, known = yamlfile.read(FOLDER / file), KnownTeachers.of(LISTED)
        for dataset, networks_of in reference["teachers"].items():
            for name, facts in networks_of.items():
                network = name if dataset != "imagenet" or name.startswith("imagenet_") else f"imagenet_{name}"
                if network not in networks.names() or facts.get("published_top1", 0) is None:
                    continue
                listed = known.find(dataset, network)
                top1 = facts.get("top1") or {"": facts.get("published_top1")}
                # The first reference has addresses of ResNet-101 and 152 without accuracies, the second has both.
                if (file, name) not in (("teachers.yaml", "resnet101"), ("teachers.yaml", "resnet152")):
                    assert listed.published_top1 in top1.values()
                text = json.dumps(listed.model_dump())
                wanted = [*facts.get("urls", ()), *facts.get("archive_member", {}).values()]
                wanted += [source[kind] for source in facts.get("sources", ()) for kind in ("address", "torchvision")
                           if kind in source]  # fmt: skip
                for place in wanted:
                    assert place in text
                keys = {source["weights_key"] for source in facts.get("sources", [facts]) if source.get("weights_key")}
                assert keys >= {source.weights_key for source in listed.sources if source.weights_key}

    def test_addresses_that_carry_a_checksum_declare_it(self):
        for source in KnownTeachers.of(LISTED).teachers["imagenet"]["imagenet_resnet34"].sources[1:]:
            assert f"-{source.sha256}.pth" in source.address

    def test_torchvision_knows_the_weights(self):
        for listed in KnownTeachers.of(LISTED).teachers["imagenet"].values():
            address, digits = _torchvision(listed.sources[0].torchvision)
            assert address.startswith((f"{MODELS}/resnet", f"{MODELS}/mobilenet_v2-", f"{MODELS}/regnet_y_16gf-"))
            assert address.endswith(f"-{digits}.pth")
            assert len(digits) == 8

    @pytest.mark.parametrize(("source", "problem"), [
        ({}, "must have exactly one of address, archive, torchvision, by_hand; it has none"),
        ({"address": "https://a.org/b", "by_hand": "x"}, "it has address and by_hand"),
        ({"archive": "https://a.org/b"}, "an archive needs the member that is the checkpoint"),
        ({"address": "https://a.org/b", "member": "x"}, "an archive needs the member that is"),
        ({"address": "https://a.org/b", "archive_sha256": "0" * 8}, "archive_sha256 is for an archive"),
        ({"address": "ftp://a.org/b"}, "'ftp://a.org/b': only http and https addresses are allowed"),
        ({"address": "http://[bad/x"}, r"address: 'http://\[bad/x': names no host"),
        ({"address": "http://"}, "names no host"), ({"address": "http://a:99999999/x"}, "names no host"),
        ({"archive": "http:///x", "member": "y"}, "archive: 'http:///x': names no host"),
        ({"torchvision": "resnet34"}, "should match pattern"),
        ({"address": "https://a.org/b", "sha256": "0" * 7}, "should match pattern"),
        ({"url": "https://a.org/b"}, "Extra inputs"),
    ])  # fmt: skip
    def test_what_is_no_source(self, source, problem):
        with pytest.raises(UserError, match=r"^data/teachers\.yaml: teachers\.digits\.resnet8\.sources\.0.*" + problem):
            KnownTeachers.of(listing(source))

    def test_an_accuracy_that_is_a_share(self):
        with pytest.raises(UserError, match=r"digits\.resnet8\.published_top1: 0\.7: is in percent: write 70$"):
            KnownTeachers.of(listing(top1=0.7))

    def test_every_problem_is_named(self):
        with pytest.raises(UserError) as caught:
            KnownTeachers.of({"tolerance": -1, "teachers": {"digits": {"resnet8": {"sources": []}}}})
        assert len(str(caught.value).splitlines()) == 2


class TestCard:
    def test_without_a_copy_it_lists_the_sources(self, folder):
        sources = [{"archive": "https://a.org/b.tar", "member": "c.pth", "weights_key": "model"},
                   {"address": "http://a.org/b.pth", "sha256": "0" * 64}, {"by_hand": "a share"}]  # fmt: skip
        made = card(*sources)
        assert (made["source"], made["published_top1"], made["tolerance"]) == ("published", 10.0, 10.0)
        assert made["sources"] == sources
        assert set(made["code"]) == {"student"}
        assert "train" not in made

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_copy_that_comes_changes_or_goes(self, folder, suffix):
        source = {"address": "https://a.org/b.pth"}
        copy = folder / f"checkpoints/digits/resnet8{suffix}"
        copy.parent.mkdir(parents=True)
        made = [card(source)]
        for content in (b"one", b"two"):
            copy.write_bytes(content)
            made.append(card(source))
            file = f"checkpoints/digits/resnet8{suffix}"
            assert made[-1]["sources"] == [{"file": file, "sha256": sha256(content)}]
            assert str(folder) not in json.dumps(made[-1])
        assert made[0] != made[1] != made[2]
        copy.unlink()
        assert card(source) == made[0]

    def test_two_copies(self, folder):
        (folder / "checkpoints/digits").mkdir(parents=True)
        for suffix in (".pth", ".safetensors"):
            (folder / f"checkpoints/digits/resnet8{suffix}").write_bytes(b"")
        with pytest.raises(UserError, match=r"resnet8\.safetensors and .*resnet8\.pth: are both there; keep the one"):
            card()

    def test_pinned(self, folder):
        made = card(
            {"address": "https://a.org/b.pth"}, {"archive": "https://a.org/b.tar", "member": "c"}, sha256="1" * 64
        )
        assert [source["sha256"] for source in made["sources"]] == ["1" * 64] * 2
        (folder / "checkpoints/digits").mkdir(parents=True)
        (folder / "checkpoints/digits/resnet8.pth").write_bytes(b"one")
        with pytest.raises(UserError, match=r"teachers\.resnet8\.sha256: checkpoints/digits/resnet8\.pth has sha256"):
            card({"address": "https://a.org/b.pth"}, sha256="1" * 64)

    def test_what_can_be_had_by_hand_alone(self, folder):
        message = (
            r"teachers\.resnet8\.source: no client can download a published resnet8 of digits \(a share\)\. "
            r"Put a copy at checkpoints/digits/resnet8\.pth, or set source: train, or add otherwise: train$"
        )
        with pytest.raises(UserError, match=message):
            card({"by_hand": "a share"})
        with pytest.raises(UserError, match="no download is listed"):
            card()
        assert card({"by_hand": "a share"}, otherwise="train", train=TRAIN)["sources"] == [{"by_hand": "a share"}]
        (folder / "checkpoints/digits").mkdir(parents=True)
        (folder / "checkpoints/digits/resnet8.pth").write_bytes(b"one")
        assert "file" in card({"by_hand": "a share"})["sources"][0]

    def test_otherwise_train_has_the_training_too(self, folder):
        source = {"address": "https://a.org/b.pth"}
        made, trained = card(source, otherwise="train", train=TRAIN), card(source="train", train=TRAIN)
        assert made["train"] == trained["train"]
        assert made["train"]["epochs"] == 2
        assert made["otherwise"] == "train"
        assert {key: made[key] for key in ("method", "seed", "recipe")} == {
            key: trained[key] for key in ("method", "seed", "recipe")
        }
        assert set(made["code"]) == {"student", "trainer"}

    @pytest.mark.parametrize(("data", "message"), [
        ("cifar100", "data/teachers.yaml lists no published resnet8 of cifar100; of cifar100 it lists resnet20, "),
        ("digits", "no published resnet8 of digits; it lists those of cifar100, imagenet, cub200, tiny_imagenet. "),
    ])  # fmt: skip
    def test_what_is_not_listed(self, folder, data, message):
        wanted = matrix(source="published")
        if data == "cifar100":
            wanted = wanted.model_copy(update={"data": data_section.Cifar100(name="cifar100", source="download")})
        with pytest.raises(UserError, match=message):
            cards.make_cards(wanted, published_recipes=yamlfile.read(ROOT / "data/recipes.yaml"), known_teachers=LISTED)
        with pytest.raises(UserError, match="^presets/x.yaml: teachers.resnet8.source: .*" + message):
            teacher_cards.check_teachers(wanted, LISTED, "presets/x.yaml")

    def test_accuracy_may_be_given(self, folder):
        source = {"address": "https://a.org/b.pth"}
        assert "published_top1" not in card(source, top1=None)
        assert card(source, top1=None, published_top1=12.5)["published_top1"] == 12.5

    def test_path_of_an_archive(self, folder):
        (folder / "a.tar").write_bytes(ARCHIVE)
        made = card(source="a.tar", member=MEMBER)
        assert (made["source"], made["member"], made["sha256"]) == ("a.tar", MEMBER, sha256(ARCHIVE))
        assert "member" not in card(source="a.tar")


class TestAdoption:
    def test_path(self, adopt, folder):
        (folder / "a.pth").write_bytes(CHECKPOINT)
        meta = adopt(card(source="a.pth"))
        assert meta["adopted"] == {
            "source": "a.pth", "member": None, "sha256": sha256(CHECKPOINT), "archive_sha256": None,
            "trusted_on_first_use": False,
        }  # fmt: skip
        assert not (folder / "scratch").exists()

    def test_home(self, adopt, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder))
        (folder / "a.pth").write_bytes(CHECKPOINT)
        assert adopt(card(source="~/a.pth"))["adopted"]["source"] == "~/a.pth"

    def test_path_that_was_replaced(self, adopt, folder):
        (folder / "a.pth").write_bytes(CHECKPOINT)
        made = card(source="a.pth")
        (folder / "a.pth").write_bytes(ARCHIVE)
        with pytest.raises(
            UserError, match=rf"teacher resnet8: a\.pth: has sha256 {sha256(ARCHIVE)}, not {sha256(CHECKPOINT)}"
        ):
            adopt(made)

    def test_path_of_an_archive(self, adopt, folder):
        (folder / "a.tar").write_bytes(ARCHIVE)
        assert adopt(card(source="a.tar", member=MEMBER))["adopted"] == {
            "source": "a.tar", "member": MEMBER, "sha256": sha256(CHECKPOINT), "archive_sha256": sha256(ARCHIVE),
            "trusted_on_first_use": False,
        }  # fmt: skip
        with pytest.raises(UserError, match=r"teacher resnet8: a\.tar: has no member 'none'"):
            adopt(card(source="a.tar", member="none"))

    def test_address(self, adopt, folder, site):
        url = site.add("resnet8.pth", CHECKPOINT)
        meta = adopt(card(source=url, sha256=sha256(CHECKPOINT)))
        assert (meta["adopted"]["source"], meta["adopted"]["trusted_on_first_use"]) == (url, False)
        with pytest.raises(UserError, match=f"teacher resnet8: {url}: has sha256 .*, not {'0' * 64}; it was removed"):
            adopt(card(source=url, sha256="0" * 64))
        with pytest.raises(UserError, match=r"teacher resnet8: .*/none\.pth: answers 404 Not Found$"):
            adopt(card(source=f"{site.url}/none.pth", sha256="0" * 64))

    def test_address_of_an_archive(self, adopt, site):
        url = site.add("a.tar", ARCHIVE)
        meta = adopt(card(source=url, sha256=sha256(ARCHIVE), member=MEMBER))
        assert meta["adopted"]["sha256"] == sha256(CHECKPOINT)
        assert meta["adopted"]["trusted_on_first_use"] is False

    def test_own_copy_goes_before_the_sources(self, adopt, folder, site):
        (folder / "checkpoints/digits").mkdir(parents=True)
        (folder / "checkpoints/digits/resnet8.pth").write_bytes(CHECKPOINT)
        meta = adopt(card({"address": site.add("a.pth", CHECKPOINT)}))
        assert meta["adopted"]["source"] == "checkpoints/digits/resnet8.pth"
        assert site.asked == []

    @pytest.mark.parametrize("otherwise", [None, "train"])
    def test_own_copy_that_is_no_checkpoint_is_not_replaced(self, adopt, folder, site, otherwise):
        (folder / "checkpoints/digits").mkdir(parents=True)
        (folder / "checkpoints/digits/resnet8.pth").write_bytes(b"none")
        made = card({"address": site.add("a.pth", CHECKPOINT)}, otherwise=otherwise, train=TRAIN if otherwise else None)
        with pytest.raises(
            UserError, match=r"teacher resnet8: checkpoints/digits/resnet8\.pth: not a checkpoint"
        ) as caught:
            adopt(made)
        assert not isinstance(caught.value, NoSourceError)

    def test_archive_and_its_member(self, adopt, folder, site):
        url = site.add("a.tar", ARCHIVE)
        meta = adopt(card({"archive": url, "member": MEMBER, "weights_key": "model"}))
        assert meta["adopted"] == {
            "source": url, "member": MEMBER, "sha256": sha256(CHECKPOINT), "archive_sha256": sha256(ARCHIVE),
            "trusted_on_first_use": True,
        }  # fmt: skip
        assert meta["tried"] == []

    def test_archive_serves_several_teachers(self, adopt, site):
        source = {"archive": site.add("a.tar", ARCHIVE), "member": MEMBER}
        adopt(card(source))
        adopt(card({**source, "weights_key": "model"}))
        assert len(site.asked) == 1

    @pytest.mark.parametrize(("known", "trusted"), [
        ({}, True), ({"sha256": sha256(CHECKPOINT)}, False), ({"sha256": sha256(CHECKPOINT)[:8]}, False),
        ({"archive_sha256": sha256(ARCHIVE)}, False),
    ])  # fmt: skip
    def test_trust_on_first_use(self, adopt, site, known, trusted):
        meta = adopt(card({"archive": site.add("a.tar", ARCHIVE), "member": MEMBER, **known}))
        assert meta["adopted"]["trusted_on_first_use"] is trusted

    def test_mirrors_in_their_order(self, adopt, site):
        broken = site.add("broken.pth", CHECKPOINT[:-500])
        key = site.add("key.pth", CHECKPOINT)
        other = site.add("other.pth", pickled({"model": networks.create("resnet14", 10).state_dict()}))
        sources = [
            {"by_hand": "a share"},
            {"address": f"{site.url}/none.pth"},
            {"address": broken},
            {"address": key, "weights_key": "net"},
            {"address": other},
            {"archive": site.add("a.tar", ARCHIVE[:-8000]), "member": MEMBER},
            {"archive": site.add("b.tar", tar(a=b"")), "member": MEMBER},
            {"archive": site.add("c.tar", ARCHIVE), "member": MEMBER, "sha256": "0" * 64},
            {"torchvision": "ResNet34_Weights.IMAGENET1K_V9"},
            {"address": site.add("last.pth", CHECKPOINT)},
            {"address": site.add("never.pth", CHECKPOINT)},
        ]
        meta = adopt(card(*sources))
        assert meta["adopted"]["source"] == f"{site.url}/last.pth"
        reasons = [(one["source"].removeprefix(f"{site.url}/"), one["reason"]) for one in meta["tried"]]
        expected = [
            ("a share", "no client can download it"), ("none.pth", "answers 404 Not Found"),
            ("broken.pth", "not a checkpoint of tensors alone, or damaged"), ("key.pth", "under 'net'"),
            ("other.pth", "does not fit"), ("a.tar", "is no whole tar"), ("b.tar", "has no member"),
            ("c.tar", f"has sha256 {sha256(CHECKPOINT)}, not {'0' * 64}"),
            ("ResNet34_Weights.IMAGENET1K_V9", "torchvision has no weights of this name"),
        ]  # fmt: skip
        assert [source for source, _ in reasons] == [source for source, _ in expected]
        for (source, reason), (_, part) in zip(reasons, expected, strict=True):
            assert part in reason, source
        kept = {path.name[17:] for path in download.FOLDER.iterdir() if path.suffix in (".pth", ".tar")}
        assert kept == {"last.pth"}, "what is unusable was kept"

    @pytest.mark.parametrize(("content", "reason"), [
        (PAGE, "not a checkpoint of tensors alone, but a web page: the download did not reach the file"),
        (b"", "not a checkpoint of tensors alone, or damaged"),
        (ARCHIVE, "not a checkpoint of tensors alone, but an archive: name the file inside with 'member'"),
        (ORDERS, "not a checkpoint of tensors alone: it asks for posix.system, which could be code. Where you trust"),
        (CHECKPOINT[:-500], "not a checkpoint of tensors alone, or damaged"),
        (BOMB, "an archive bomb"),
    ])  # fmt: skip
    def test_what_is_no_checkpoint(self, adopt, folder, site, content, reason):
        """Refused, explained, and removed: the next run asks again."""
        alone = {"address": site.add("a.pth", content)}
        member = {"archive": site.add("a.tar", tar(**{MEMBER: content})), "member": MEMBER}
        with pytest.raises(NoSourceError) as caught:
            adopt(card(alone, member))
        assert [one["source"] for one in caught.value.tried] == [alone["address"], member["archive"]]
        assert all(reason in one["reason"] for one in caught.value.tried)
        assert [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []

    @pytest.mark.parametrize(
        "members",
        [{"../evil": b"x"}, {"link": tarfile.SYMTYPE}, {"null": tarfile.CHRTYPE}],
        ids=["path", "link", "device"],
    )
    def test_hostile_archive(self, adopt, folder, site, members):
        """Its checkpoint is sound, and not taken."""
        url = site.add("a.tar", tar(**{MEMBER: CHECKPOINT}, **members))
        with pytest.raises(NoSourceError, match=f"- {url}: .*a.tar: its member .*; nothing was extracted"):
            adopt(card({"archive": url, "member": MEMBER}))
        assert [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []

    def test_archive_that_is_a_web_page(self, adopt, folder, site):
        for url in (site.add("a.tar", PAGE), site.add("b.tar", PAGE, headers={"Content-Type": "text/html"})):
            with pytest.raises(NoSourceError, match=r"is no whole tar, tar\.gz or zip archive|answers with a web"):
                adopt(card({"archive": url, "member": MEMBER}))
        assert [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []

    def test_all_fail(self, adopt, folder, site):
        made = card(
            {"archive": f"{site.url}/a.tar", "member": MEMBER}, {"address": f"{site.url}/b.pth"}, {"by_hand": "a share"}
        )
        with pytest.raises(NoSourceError) as caught:
            adopt(made)
        assert str(caught.value) == (
            "teacher resnet8: no published checkpoint could be had:\n"
            f"- {site.url}/a.tar: answers 404 Not Found\n- {site.url}/b.pth: answers 404 Not Found\n"
            "- a share: no client can download it\n"
            "put a copy at checkpoints/digits/resnet8.pth, or set teachers.resnet8.source: train, "
            "or add otherwise: train"
        )
        with pytest.raises(NoSourceError, match=r"(?s)^teacher mine: .*put a copy at checkpoints/digits/resnet8\.pth"):
            adopt({**made, "name": "mine"})  # copies have the network's name
        assert [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []

    def test_far_below_its_published_accuracy(self, adopt, folder, site):
        """No reason to look elsewhere, nor to train."""
        url = site.add("a.pth", CHECKPOINT)
        made = card(
            {"address": url}, {"address": site.add("b.pth", CHECKPOINT)}, top1=90.0, otherwise="train", train=TRAIN
        )
        with pytest.raises(
            UserError, match=f"{url} reaches .* points below the published 90.00% .allowed: 10."
        ) as caught:
            adopt(made)
        assert not isinstance(caught.value, NoSourceError)
        assert not (folder / "out").exists()
        assert len(site.asked) == 1

    def test_torchvision(self, adopt, site, monkeypatch):
        """Its file's name carries the first digits."""
        import torchvision.models

        for carried, reason in ((sha256(CHECKPOINT)[:8], None), ("00000000", "has sha256 .*, not 00000000")):
            url = site.add(f"resnet34-{carried}.pth", CHECKPOINT)
            monkeypatch.setattr(torchvision.models, "get_weight", lambda name, url=url: type(name, (), {"url": url}))
            made = card({"torchvision": "ResNet34_Weights.IMAGENET1K_V1"})
            if reason is None:
                meta = adopt(made)
                assert (meta["adopted"]["source"], meta["adopted"]["trusted_on_first_use"]) == (url, False)
            else:
                with pytest.raises(UserError, match=reason):
                    adopt(made)


class TestStage:
    @pytest.fixture
    def project(self, folder, dataset):
        """A folder with data; returns how to carry a card out."""
        with whole(folder / "data/digits") as place:
            storage.save(dataset, place)

        def run(made):
            yamlfile.write(folder / "cards/teacher/resnet8.yaml", made)
            return call(folder, "stages.teacher", "resnet8")

        return run

    @pytest.mark.slow
    def test_member_of_an_archive(self, project, folder, site):
        url = site.add("a.tar", ARCHIVE)
        code, said = project(card({"address": f"{site.url}/none"}, {"archive": url, "member": MEMBER}))
        assert (code, "published 10.00%" in said) == (0, True)
        meta = run_folder.read_meta(folder / "teachers/resnet8")
        assert meta["adopted"]["source"] == url
        assert meta["adopted"]["trusted_on_first_use"]
        assert meta["tried"] == [{"source": f"{site.url}/none", "reason": "answers 404 Not Found"}]
        assert sorted(path.name for path in (folder / "teachers/resnet8").iterdir()) == [
            "meta.json",
            "weights.safetensors",
        ]
        text = "published checkpoint"
        assert captions.origins({"teachers": {"resnet8": text}}, {"resnet8": meta}) == {"resnet8": text}

    def test_all_sources_fail(self, project, folder, site):
        code, said = project(card({"address": f"{site.url}/a.pth"}, {"archive": f"{site.url}/b.tar", "member": MEMBER}))
        assert code == 2
        assert said.startswith("error: teacher resnet8: no published checkpoint could be had:\n- ")
        assert all(f"- {site.url}/{name}: answers 404 Not Found\n" in said for name in ("a.pth", "b.tar"))
        assert "otherwise: train" in said
        assert not (folder / "teachers").exists()

    def test_otherwise_train(self, project, folder, site):
        code, said = project(card({"address": f"{site.url}/a.pth"}, otherwise="train", train=TRAIN))
        assert code == 0
        assert f"- {site.url}/a.pth: answers 404 Not Found\nteacher resnet8: is trained here instead" in said
        meta = run_folder.read_meta(folder / "teachers/resnet8")
        assert "adopted" not in meta
        assert meta["tried"] == [{"source": f"{site.url}/a.pth", "reason": "answers 404 Not Found"}]
        assert len((folder / "teachers/resnet8/history.csv").read_text().splitlines()) == 3
        origin = captions.origins({"teachers": {"resnet8": "published checkpoint"}}, {"resnet8": meta})["resnet8"]
        assert origin == "trained here, 2 epochs, for no published checkpoint could be had"
        published = (folder / "teachers/resnet8" / run_folder.WEIGHTS).read_bytes()
        yamlfile.write(folder / "cards/teacher/trained.yaml", {**card(source="train", train=TRAIN), "name": "resnet8"})
        experiment.run(folder / "cards/teacher/trained.yaml", folder / "trained")
        assert (folder / "trained" / run_folder.WEIGHTS).read_bytes() == published

    def test_otherwise_train_takes_what_can_be_had(self, project, folder, site):
        code, _ = project(card({"address": site.add("a.pth", CHECKPOINT)}, otherwise="train", train=TRAIN))
        assert (code, "adopted" in run_folder.read_meta(folder / "teachers/resnet8")) == (0, True)

    def test_unlisted_stops_the_plan(self, folder):
        yamlfile.write(folder / "params.yaml", {**matrix(source="published").model_dump(), "variants": {"base": {}}})
        (folder / "data").mkdir()
        for name in ("recipes", "teachers", "published", "published_transfer"):
            (folder / f"data/{name}.yaml").write_text((ROOT / f"data/{name}.yaml").read_text())
        for arguments in ([], ["--check", "params.yaml"]):
            code, said = call(folder, "stages.plan", *arguments)
            assert code == 2
            assert said.startswith(
                "error: params.yaml: teachers.resnet8.source: data/teachers.yaml lists no published resnet8"
            )
        assert not (folder / "made").exists()


class TestAccuracy:
    """A teacher that is not as accurate as it should be is refused, with the normalisation that it was trained with."""

    OTHER = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # noqa: RUF012

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, tmp_path_factory):
        """A checkpoint that was trained on pixels from 0 to 255, and its accuracy in percent on such images."""
        folder = tmp_path_factory.mktemp("trained")
        full = digits.fetch(source="embedded", image_size=16, train_per_class=20)
        other = replace(full, mean=(0.0,) * 3, std=(1 / 255,) * 3)
        settings = {**TRAIN, "epochs": 6, "batch_size": 16, "momentum": 0.9, "nesterov": False}
        how = {"name": "a", "student": "resnet8", "method": "vanilla", "seed": 0, "recipe": {"ce_weight": 1.0}}
        run = loop.prepare({**how, "train": settings}, other, None, device=CPU)
        for _ in loop.steps(run, None, other):
            pass
        checkpoints.save(run.student, folder / "a.safetensors")
        return folder / "a.safetensors", run.history[-1]["test_top1"]

    @pytest.fixture
    def teacher(self, trained, folder, dataset):
        """Adopt it from the current folder; returns its accuracy and what is written."""
        (folder / "a.safetensors").write_bytes(trained[0].read_bytes())

        def teacher(**options):
            made = card(source="a.safetensors", top1=None, **options)
            return adopt_teacher(made, dataset, folder / "out", CPU), folder / "out" / run_folder.WEIGHTS

        return teacher

    def test_the_training_went_well(self, trained):
        assert trained[1] > 40

    def test_the_error_names_the_normalisation(self, teacher, trained):
        message = (
            r"points below the published .* normalised by mean \[0\.0, 0\.0, 0\.0\] and std \[0\.00392157, .* it "
            r"reaches .*: set teachers\.resnet8\.mean and teachers\.resnet8\.std$"
        )
        with pytest.raises(UserError, match=message):
            teacher(published_top1=trained[1])

    def test_one_that_is_hardly_better_is_no_reason(self, teacher, trained, monkeypatch):
        """With few test images some normalisation is always an image better; the expected accuracy was wrong."""
        best = checked_teacher.Best(checked_teacher.COMMON[1], trained[1] + 0.5, trained[1])
        monkeypatch.setattr(checked_teacher, "_best", lambda network, dataset: best)
        monkeypatch.setattr(checked_teacher, "_error", lambda top1, dataset: 100.0)
        message = (
            r"points below the published .*Are weights, data set and class order those .* set teachers\.resnet8\.pub"
        )
        with pytest.raises(UserError, match=message):
            teacher(published_top1=trained[1] + 30, **self.OTHER)

    def test_without_a_known_accuracy_too(self, teacher):
        with pytest.raises(UserError, match=r"set teachers\.resnet8\.mean and teachers\.resnet8\.std"):
            teacher()

    def test_with_it_the_teacher_is_as_it_was(self, teacher, trained, dataset, capsys):
        top1, written = teacher(**self.OTHER)
        assert top1 == pytest.approx(trained[1], abs=0.5)
        assert "how accurate it should be is not known" in capsys.readouterr().err
        assert teacher(published_top1=trained[1], **self.OTHER)[0] == top1
        assert capsys.readouterr().err == ""
        restored = checkpoints.restore("resnet8", 10, written, CPU)
        assert inference.top1(
            inference.predict(restored, dataset.test, dataset, CPU), torch.from_numpy(dataset.test.labels)
        ) == pytest.approx(top1)

    def test_what_was_adopted_before_needs_its_normalisation(self, teacher, trained, folder, dataset):
        """Its file renormalises the images of the data set that it was adopted for, whose mean may be another."""
        top1, written = teacher(**self.OTHER)
        (folder / "b.safetensors").write_bytes(written.read_bytes())
        for other in (dataset, replace(dataset, mean=(0.5,) * 3)):
            made = card(source="b.safetensors", top1=None)
            message = r"teacher resnet8: b\.safetensors: was adopted before.*set teachers\.<name>\.mean and std"
            with pytest.raises(UserError, match=message):
                adopt_teacher(made, other, folder / "out", CPU)
            with pytest.raises(UserError, match=message):
                check_fits(made, other)
            made = card(source="b.safetensors", top1=None, **self.OTHER)
            assert adopt_teacher(made, other, folder / "out", CPU) == pytest.approx(top1, abs=0.2)

    def test_classes_in_another_order_are_said(self, trained, folder, dataset, capsys):
        """Where some are, the teacher is better than chance, and no normalisation explains what it lacks."""
        (folder / "a.safetensors").write_bytes(trained[0].read_bytes())
        weights = checkpoints.restore("resnet8", 10, trained[0], CPU).state_dict()
        order = torch.tensor([1, 2, 3, 4, 0, *range(5, 10)])
        torch.save({**weights, "fc.weight": weights["fc.weight"][order], "fc.bias": weights["fc.bias"][order]}, "p.pth")
        adopt_teacher(card(source="p.pth", top1=None, **self.OTHER), dataset, folder / "out", CPU)
        said = capsys.readouterr().err
        assert "classes seem to be in another order" in said
        assert "output 0 for '1', output 1 for '2', output 2 for '3', ... stood" in said
        with pytest.raises(UserError, match=r"none of the common .*\. Its classes seem to be in another order"):
            adopt_teacher(
                card(source="p.pth", top1=None, published_top1=trained[1], **self.OTHER), dataset, folder / "out", CPU
            )
        adopt_teacher(card(source="a.safetensors", top1=None, **self.OTHER), dataset, folder / "out", CPU)
        assert "order" not in capsys.readouterr().err

    def test_one_that_is_far_better_than_published_is_doubted(self, trained, folder, dataset, capsys):
        (folder / "a.safetensors").write_bytes(trained[0].read_bytes())
        for published in (trained[1] - 12, trained[1] - 8):
            made = card(source="a.safetensors", top1=None, published_top1=published, **self.OTHER)
            adopt_teacher(made, dataset, folder / "out", CPU)
            said = "points above the published" in capsys.readouterr().err
            assert said == (published == trained[1] - 12)

    def test_the_record_of_a_run_says_how_its_images_were_normalised(self, trained, folder, dataset):
        """A teacher that was trained here for another matrix, by the path of its weights."""
        run = folder / "old"
        run.mkdir()
        shutil.copy(trained[0], run / "weights.safetensors")
        images = {"mean": [0.0] * 3, "std": [1 / 255] * 3}
        (run / "meta.json").write_text(json.dumps({"student": "resnet8", "images": images}))
        where = "old/weights.safetensors"
        message = r"normalised by mean \[0\.0, .*as its record says, and would see .*set teachers\.resnet8\.mean: \[0"
        for wrong in ({}, {"mean": [0.5] * 3, "std": [0.5] * 3}):
            for adopt in (check_fits, lambda *given: adopt_teacher(*given, folder / "out", CPU)):
                with pytest.raises(UserError, match=message):
                    adopt(card(source=where, top1=None, **wrong), dataset)
        adopt_teacher(card(source=where, top1=None, **images), dataset, folder / "out", CPU)

    def test_the_record_of_a_run_says_which_network_it_is(self, trained, folder, dataset, capsys):
        (folder / "old").mkdir()
        shutil.copy(trained[0], folder / "old/weights.safetensors")
        for meta in (
            {"student": "resnet8"},
            {"student": "r8", "networks": {"r8": {"zoo": "resnet8", "image_size": 32}}},
        ):
            (folder / "old/meta.json").write_text(json.dumps(meta))
            adopt_teacher(card(source="old/weights.safetensors", top1=None, **self.OTHER), dataset, folder / "out", CPU)
            said = "was trained as {'zoo': 'resnet8', 'image_size': 32}, as its record says; as 'resnet8' it may see"
            assert (said in capsys.readouterr().err) == ("networks" in meta)

    def test_classes_that_the_file_lists_in_another_order_are_refused(self, trained, folder, dataset):
        """However accurate it is: two classes of many that are swapped cost little."""
        swapped = ["1", "0", *map(str, range(2, 10))]
        weights = checkpoints.restore("resnet8", 10, trained[0], CPU).state_dict()
        torch.save({"model": weights, "classes": swapped}, "c.pth")
        with pytest.raises(UserError, match=r"c\.pth: lists the classes in another order .* in classes: its output 0"):
            adopt_teacher(card(source="c.pth", top1=None, **self.OTHER), dataset, folder / "out", CPU)

    def test_chance_is_no_other_order(self, dataset):
        """Of many classes with few images each, a random network's outputs have some order that fits by chance."""
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (1000, 16, 16, 3), dtype=np.uint8)
        test = Split(images, generator.integers(0, 100, 1000))
        many = replace(dataset, classes=[str(label) for label in range(100)], test=test)
        assert checked_teacher._other_order(networks.create("resnet8", 100).eval(), many) == ""

    def test_a_shortfall_within_the_tolerance_is_said(self, teacher, trained, capsys):
        teacher(published_top1=trained[1] + 3, **self.OTHER)
        said = capsys.readouterr().err
        assert "points below the published" in said
        assert "set teachers" not in said
        teacher(published_top1=trained[1] + 0.5, **self.OTHER)
        assert capsys.readouterr().err == ""

    def test_another_normalisation_that_is_better_is_said_though_the_accuracy_is_allowed(
        self, teacher, dataset, capsys, monkeypatch
    ):
        monkeypatch.setattr(checked_teacher, "COMMON", (checked_teacher.Normalisation((0.0,) * 3, (1 / 255,) * 3),))
        top1, _ = teacher(published_top1=0.0)
        assert capsys.readouterr().err == ""
        assert top1 < 20, "about chance, on any machine"
        teacher(published_top1=top1 + 2)
        assert "set teachers.resnet8.mean and teachers.resnet8.std, if that is how it was trained" in (
            capsys.readouterr().err
        )

    def test_no_better_than_chance(self, folder, dataset):
        (folder / "b.pth").write_bytes(CHECKPOINT)
        with pytest.raises(UserError, match=r"is no better than chance\. Are weights, data set and class order"):
            adopt_teacher(card(source="b.pth", top1=None), dataset, folder / "out", CPU)
        assert adopt_teacher(card(source="b.pth", top1=0.0), dataset, folder / "out", CPU) < 20

    def test_no_better_than_chance_where_the_published_accuracy_is_and_the_tolerance_is_large(self, folder, dataset):
        (folder / "b.pth").write_bytes(CHECKPOINT)
        chance = checked_teacher._chance(dataset)
        with pytest.raises(UserError, match=r"points below the published .*, which is no better than chance\. Are"):
            adopt_teacher(card(source="b.pth", top1=chance + 1), dataset, folder / "out", CPU)
        assert adopt_teacher(card(source="b.pth", top1=chance - 1), dataset, folder / "out", CPU) <= chance

    def test_several_state_dicts_and_other_names(self, folder, dataset, capsys):
        theirs = {key.replace("fc.", "linear."): value for key, value in weights().items()}
        torch.save({"net": theirs, "ema": {key: 2 * value for key, value in theirs.items()}}, folder / "c.pth")
        for options, message in (({}, "fit and differ"), ({"weights_key": "net"}, None)):
            made = card(source="c.pth", top1=0.0, rename={"linear": "fc"}, **options)
            if message:
                with pytest.raises(UserError, match=r"'net' and 'ema'.*weights_key"):
                    adopt_teacher(made, dataset, folder / "out", CPU)
        adopt_teacher(made, dataset, folder / "out", CPU)
        network = networks.create("resnet8", 10)
        checkpoints.load(folder / "out" / run_folder.WEIGHTS, network)
        assert torch.equal(network.fc.weight, weights()["fc.weight"])
