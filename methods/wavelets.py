"""The discrete wavelets of PyWavelets, which takes a third of the pack's start and is imported where one is used."""

BIORTHOGONAL = ("1.1", "1.3", "1.5", "2.2", "2.4", "2.6", "2.8", "3.1", "3.3", "3.5", "3.7", "3.9", "4.4", "5.5", "6.8")
WAVELETS = (
    *(f"bior{orders}" for orders in BIORTHOGONAL),
    *(f"coif{order}" for order in range(1, 18)),
    *(f"db{order}" for order in range(1, 39)),
    "dmey",
    "haar",
    *(f"rbio{orders}" for orders in BIORTHOGONAL),
    *(f"sym{order}" for order in range(2, 21)),
)


def low_pass_taps(wavelet: str) -> list[float]:
    """The low-pass filter that takes a signal apart, in the order in which it is slid over it."""
    import pywt

    return pywt.Wavelet(wavelet).dec_lo[::-1]
