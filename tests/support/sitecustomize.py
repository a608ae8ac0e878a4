"""Read by Python when it starts, here in each process that tests start: to look for garbage more seldom.

Such a process mostly imports torch, Ray and transformers; a quarter of that time went into looking for garbage where
there is none.
"""

import gc

gc.set_threshold(50_000)
