"""SimCLR (Chen et al., 2020)."""

from imagenet_sd.training.objectives.stablerep import StableRep


class SimCLR(StableRep):
    """Pulls together the crops of one image, away from all other images of the batch: NT-Xent.

    It is StableRep's loss with the positives of one image, the only ones that its configuration allows.
    """
