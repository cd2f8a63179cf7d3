import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(a, b):
    ta = nl.ndarray((128, 128), dtype=a.dtype, buffer=nl.sbuf)
    tb = nl.ndarray((128, 512), dtype=b.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=ta, src=a[0:128, 0:128])
    nisa.dma_copy(dst=tb, src=b[0:128, 0:512])
    acc0 = nl.ndarray((32, 512), dtype=nl.float32, buffer=nl.psum)
    for _ in nl.affine_range(512):
        nisa.nc_matmul(dst=acc0, stationary=ta[0:128, 0:32], moving=tb[0:128, 0:512])
    acc1 = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.psum)
    for _ in nl.affine_range(512):
        nisa.nc_matmul(dst=acc1, stationary=ta[0:128, 0:128], moving=tb[0:128, 0:64])
    acc2 = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
    for _ in nl.affine_range(512):
        nisa.nc_matmul(dst=acc2, stationary=ta[0:32, 0:128], moving=tb[0:32, 0:512])
    acc3 = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
    for _ in nl.affine_range(512):
        nisa.nc_matmul(dst=acc3, stationary=ta[0:128, 0:128], moving=tb[0:128, 0:512])
    out = nl.ndarray((128, 512), dtype=a.dtype, buffer=nl.shared_hbm)
    res = nl.ndarray((128, 512), dtype=a.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=res, src=acc3)
    nisa.dma_copy(dst=out, src=res)
    return out
