"""Every kind of network that a recipe may have."""

from __future__ import annotations

from unmask.nn.latent_network import LatentNetwork
from unmask.nn.mage_network import MageNetwork
from unmask.nn.post_norm import PostNormNetwork
from unmask.nn.pre_norm import PreNormNetwork

AnyNetwork = PreNormNetwork | PostNormNetwork | LatentNetwork | MageNetwork
