"""A recipe: one system from tokenizer to sampling plan, as plain data, checked across its axes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from unmask.decode import Plan, check_head
from unmask.errors import InputError, did_you_mean
from unmask.image_size import CachedCrop, ImageSize
from unmask.masking import Masking, NormalMasking, TrainMasking
from unmask.networks import latent, maskgit  # noqa: F401  # a file may name their classes
from unmask.networks.mage import MageNetwork
from unmask.networks.network import Network
from unmask.ranges import Name, Place, Ranged
from unmask.recipes.objectives import Contrastive, Substitution
from unmask.recipes.training import Training
from unmask.results import Result, Text


@dataclass(frozen=True, kw_only=True)
class NamedPlan(Ranged):
    """Another way to sample a system."""

    name: Name
    """Name for ``unmask sample --plan``."""
    plan: Plan
    """Way to sample."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Ranged):
    """Everything that decides a masked image generator."""

    name: Name
    """Name for `unmask.load` and the command line."""
    summary: Text
    """One line for the list of recipes."""
    tokenizer: Place
    """Tokenizer: a run or folder, or the name of a shipped or published one."""
    image_size: ImageSize
    """Image size in pixels: one number for a square, or height and width."""
    crop: Literal[
        "center", "center-bilinear", "random", "random-bilinear", "resized", "whole", "none"
    ] = "center"
    """Crop that makes training images square: ADM's at the centre or at random, either after
    torchvision's bilinear resize, one of random area and shape ("resized"), all of the image
    squeezed ("whole"), or none. Random crops are encoded in every step unless --cache is given."""
    judged_crop: Literal["center", "center-bilinear", "whole", "none"] | None = None
    """Crop of real images that samples are judged against; None means that of training images
    without its randomness."""
    flip: bool = True
    """Train on mirrored images too."""
    network: Network
    """Sizes of embed, trunk and head."""
    masking: Masking = field(default_factory=TrainMasking)
    """Tokens that a training example hides."""
    training: Training
    """Optimiser, schedule, precision, and how often things happen."""
    base: Place | None = None
    """Saved model whose weights training starts from, but for rows of other classes than its own;
    with ``substitution`` they stay frozen. None starts anew."""
    substitution: Substitution | None = None
    """Training of the self-guidance adapter alone, to repair replaced tokens; None trains the
    network to predict hidden ones."""
    contrastive: Contrastive | None = None
    """Loss of MAGE-C between two views of each image, added to the other; None adds none."""
    plan: Plan = field(default_factory=Plan)
    """Default way to sample."""
    plans: tuple[NamedPlan, ...] = ()
    """Other ways to sample that were published or are worth a name."""
    results: tuple[Result, ...] = ()
    """Published and measured scores of the system."""

    def __post_init__(self) -> None:
        """Reject parts that do not fit each other, naming both."""
        super().__post_init__()
        for plan in (self.plan, *(named.plan for named in self.plans)):
            self._check_plan(plan)
        self._check_masking()
        if self.substitution is not None:
            self._check_adapter()
        self._check_contrastive()
        self._check_base_rate()
        if self.training.label_dropout and not self.network.has_null_class:
            raise InputError(
                f"training.label_dropout={self.training.label_dropout} needs a network with a "
                f"null class, and {type(self.network).__name__} with "
                f"classes={self.network.classes} has none; set it to 0"
            )

    @property
    def encodes_each_step(self) -> bool:
        """Whether images are cut at random, so that no cache can hold them."""
        return self.crop in ("random", "random-bilinear", "resized")

    @property
    def cached_crop(self) -> CachedCrop:
        """How images are cut that a cache holds."""
        still: dict[str, CachedCrop] = {name: name for name in get_args(CachedCrop)}
        return still.get(self.crop, "center")

    @property
    def still_crop(self) -> Literal["center", "center-bilinear", "whole", "none"]:
        """How images get that size that are to be judged."""
        return self.judged_crop or ("none" if self.crop == "none" else self.cached_crop)

    def named_plan(self, name: str) -> Plan:
        """One of ``plans``.

        Raises:
            InputError: for another name.
        """
        plans = {named.name: named.plan for named in self.plans}
        if name not in plans:
            known = did_you_mean(name, plans) if plans else "it has only its default"
            raise InputError(f"{self.name} has no plan {name!r}; {known}")
        return plans[name]

    def _check_plan(self, plan: Plan) -> None:
        if plan.steps > self.network.length:
            raise InputError(
                f"plan.steps={plan.steps} exceeds network.length={self.network.length} "
                "tokens; use at most one step a token"
            )
        check_head(plan, codes=self.network.space[0] == "codes")
        if "null" in plan.guidance.scales:
            self._check_null_class(plan)
        if "self" in plan.guidance.scales:
            self._check_adapter()

    def _check_masking(self) -> None:
        if self.training.normalize == "micro" and self.masking.group is not None:
            raise InputError(
                f"masking.group={self.masking.group} and training.normalize='micro' both say which "
                "images have one ratio and one mean; leave out masking.group, or set normalize to "
                "'global'"
            )
        if not self.network.drops:
            return
        masking = self.masking
        network = f"the encoder of {type(self.network).__name__}"
        if not getattr(masking, "shared", True):
            raise InputError(
                f"masking.shared=False of {type(masking).__name__} hides unequally many tokens, "
                f"and {network} needs equally many in every image: set masking.shared, or "
                "network.drops to False"
            )
        if isinstance(masking, NormalMasking) and masking.drop != "hidden":
            raise InputError(
                f"masking.drop={masking.drop!r} shows hidden tokens to {network}, which must not "
                "see any; set it to 'hidden'"
            )

    def _check_adapter(self) -> None:
        if self.network.feedback is None:
            raise InputError(
                "self-guidance and training by substitution need a network with a feedback "
                f"adapter, and this {type(self.network).__name__} has none; set network.feedback"
            )

    def _check_base_rate(self) -> None:
        if self.training.base_rate is not None and (self.base is None or self.substitution):
            why = (
                "there is no base" if self.base is None else "with substitution the base is frozen"
            )
            raise InputError(
                f"training.base_rate={self.training.base_rate} is for what is taken from a base, "
                f"and {why}; leave it out"
            )

    def _check_contrastive(self) -> None:
        if self.contrastive is None:
            return
        if not isinstance(self.network, MageNetwork):
            raise InputError(
                f"contrastive is for the encoder of MAGE, and {type(self.network).__name__} has "
                "no such part; leave it out"
            )
        if not (isinstance(self.masking, NormalMasking) and self.masking.drop == "least"):
            raise InputError(
                "contrastive compares two views of which the encoder sees equally many tokens: set "
                "masking to NormalMasking with drop='least'"
            )

    def _check_null_class(self, plan: Plan) -> None:
        if not self.training.label_dropout:
            raise InputError(
                f"plan.guidance.scale={plan.guidance.scale} needs "
                "training.label_dropout above 0, which teaches the null class; "
                "or set the scale to 1"
            )
