"""Install the package; versions that were tested together are in requirements.txt."""

from setuptools import find_packages, setup

setup(
    name="clmr",
    version="0.1.0",
    description="Contrastive learning of musical representations from raw audio",
    license="MIT",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["clmr", "clmr.*"]),
    install_requires=[
        "torch>=2.11",
        "torchaudio>=2.11",
        "torchvision>=0.26",
        "pytorch-lightning>=2.6",
        "jsonargparse>=4.53",
        "simclr>=1.0.2",
        "timm>=1.0",
        "numpy",
        "scikit-learn",
        "pyarrow",
        "soundfile>=0.13",
        "av>=14",
        "soxr",
        "pyyaml",
        "tensorboard",
        "matplotlib>=3.10",
        "filelock",
        "tqdm",
    ],
)
