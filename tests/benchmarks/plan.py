"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What the command line asked for; `rounds` is None where it said nothing of them."""

    rounds: int | None = None
    quick: bool = False

    def rounds_of(self, usual: int, quick: int) -> int:
        """How many rounds a part makes; `usual` or `quick` of them where nothing was asked."""
        return self.rounds or self.amount(usual, quick)

    def amount(self, usual: int, quick: int) -> int:
        """The size of something that `--rounds` does not change."""
        return quick if self.quick else usual


class Unmeasurable(Exception):
    """Something cannot be measured on this machine; says why, and what would mend it."""
