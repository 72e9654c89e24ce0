"""Every kind of network that a recipe may have."""

from __future__ import annotations

from unmask.networks.latent import LatentNetwork
from unmask.networks.mage import MageNetwork
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork

AnyNetwork = MaskGITVitNetwork | MaskGITBertNetwork | LatentNetwork | MageNetwork
