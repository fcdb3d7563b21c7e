import logging

# Where torchao is installed, diffusers and transformers import it, used or not, with warnings about its own classes.
for _name in ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
