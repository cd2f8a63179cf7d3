import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def kernel(a, b):
    K, M = a.shape
    N = b.shape[1]
    out = nl.ndarray((M, N), dtype=a.dtype, buffer=nl.shared_hbm)
    for mb in nl.affine_range(M // 1024):
        ta = []
        for i in range(8):
            ta.append([])
            for k in range(K // 128):
                t = nl.ndarray((128, 128), dtype=a.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=t, src=a[k * 128:(k + 1) * 128, mb * 1024 + i * 128:mb * 1024 + (i + 1) * 128])
                ta[i].append(t)
        for nb in nl.affine_range(N // 1024):
            tb = []
            for j in range(2):
                tb.append([])
                for k in range(K // 128):
                    t = nl.ndarray((128, 512), dtype=b.dtype, buffer=nl.sbuf)
                    nisa.dma_copy(dst=t, src=b[k * 128:(k + 1) * 128, nb * 1024 + j * 512:nb * 1024 + (j + 1) * 512])
                    tb[j].append(t)
            for i in range(8):
                for j in range(2):
                    acc = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
                    for k in range(K // 128):
                        nisa.nc_matmul(dst=acc, stationary=ta[i][k], moving=tb[j][k])
                    res = nl.ndarray((128, 512), dtype=a.dtype, buffer=nl.sbuf)
                    nisa.tensor_copy(dst=res, src=acc)
                    nisa.dma_copy(dst=out[mb * 1024 + i * 128:mb * 1024 + (i + 1) * 128, nb * 1024 + j * 512:nb * 1024 + (j + 1) * 512], src=res)
    return out
