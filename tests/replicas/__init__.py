"""Tests of `batchnorm.distributed`; a folder of that name would hide the package of Dask."""
