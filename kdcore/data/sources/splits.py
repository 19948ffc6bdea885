"""The names by which the parts of a data set are known: what is trained on, and what is tested on."""

import re
import unicodedata
from pathlib import Path

TRAIN = ("train", "training", "train_set", "training_set", "seg_train")
TEST = ("test", "testing", "test_set", "testing_set", "seg_test", "eval", "evaluation")
VALIDATION = ("val", "valid", "validation", "val_set", "validation_set", "dev")
"""Names of folders and beginnings of the names of files, in capitals or not, also with - or a space for _. Validation
images are the test where there are no test images.
"""
ALL = (*TRAIN, *TEST, *VALIDATION)


def role(name: str) -> str:
    """Return the name of a folder or a file as the lists above have it."""
    return name.lower().replace("-", "_").replace(" ", "_")


LIKE_A_SPLIT = re.compile(
    r"(train|test|val|valid|eval|dev)(ing|idation|uation)?_?(\d+|images?|imgs?|data|sets?|splits?|samples?)|"
    "(un)?label(l)?ed"
)
"""Names that hardly are those of classes where folders lie in them: train_images, test2017, unlabeled."""
NO_CLASS = re.compile(
    r"background_google|((un|not_)(classified|sorted|annotated|used)|samples?|examples?|extras?|previews?|thumbnails?|"
    r"thumbs?|tmp|temp|back_?ups?|to_?(sort|do|label))(_?(\d+|images?|imgs?|data|sets?))?"
)
"""Names that hardly are those of classes where images lie in them: samples, BACKGROUND_Google, extra_images."""


def looks_like_split(name: str) -> bool:
    """Whether a folder is called like a part of a data set, by one of the names above or one that is near."""
    return role(name) in ALL or LIKE_A_SPLIT.fullmatch(role(name)) is not None


SYSTEM = ("$RECYCLE.BIN", "@eaDir", "System Volume Information", "__MACOSX", "lost+found")
"""Folders that systems and network storage make, with what may be taken for images: previews and remains."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of a data set."""
    return name.startswith(".") or name in SYSTEM


def composed(text: str) -> str:
    """Write accents as one character with their letter (NFC), for systems differ in how they write the same name."""
    return unicodedata.normalize("NFC", text)


def in_order(path: Path) -> Path:
    """Return what paths are sorted by, so that their order does not depend on how accents are written."""
    return Path(composed(str(path)))
