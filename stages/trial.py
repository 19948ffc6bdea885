"""One trial of a search: python -m stages.tune starts it on a worker."""

from kdcore.system.errors import UserError, shown
from stages import run


def main(study: str, number: str) -> None:
    """Train the cells of a trial, and tell the study."""
    if not (study.replace("_", "").isalnum() and number.isdecimal()):
        raise UserError(f"STUDY {shown(study)}, NUMBER {shown(number)}: must be a study's name and a trial's number")
    from kdcore.tuning import trial  # torch takes seconds

    trial.run(study, int(number))


if __name__ == "__main__":
    run(main)
