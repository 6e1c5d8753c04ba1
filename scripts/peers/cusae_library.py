"""What the comparison needs of include/cusae.h, through ctypes."""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint32, c_void_p

HOST = 0


class Features(ctypes.Structure):
    """cusae_features."""

    _fields_ = [
        ("rows", c_size_t), ("entries", c_size_t), ("indptr", POINTER(c_size_t)), ("indices", POINTER(c_uint32)),
        ("values", POINTER(c_float)), ("row_scale", POINTER(c_float)), ("row_shift", POINTER(c_float)),
    ]


class Cusae:
    """The library, with an engine on the CPU."""

    def __init__(self, path):
        self.library = library = ctypes.CDLL(path)
        library.cusae_error_text.restype = c_char_p
        library.cusae_trainer_create.argtypes = [c_void_p, c_size_t, c_size_t, c_char_p, POINTER(c_void_p)]
        library.cusae_train_step.argtypes = [c_void_p, c_void_p, c_size_t, c_int]
        library.cusae_trainer_sae.argtypes = [c_void_p, POINTER(c_void_p)]
        library.cusae_trainer_destroy.argtypes = [c_void_p]
        library.cusae_encode.argtypes = [c_void_p, c_void_p, c_size_t, c_int, POINTER(POINTER(Features))]
        library.cusae_features_destroy.argtypes = [c_void_p]
        self.engine = self.made(library.cusae_engine_create, b"cpu")

    def call(self, function, *arguments):
        if function(*arguments) != 0:
            raise RuntimeError(self.library.cusae_error_text().decode())

    def made(self, function, *arguments):
        """The handle that a function hands out as its last argument."""
        handle = c_void_p()
        self.call(function, *arguments, byref(handle))
        return handle

    def trainer(self, d_in, d_sae, recipe):
        return self.made(self.library.cusae_trainer_create, self.engine, d_in, d_sae, recipe.encode())

    def train(self, trainer, x):
        """One step on a batch, a C-contiguous float32 array of numpy."""
        self.call(self.library.cusae_train_step, trainer, x.ctypes.data, len(x), HOST)

    def sae(self, trainer):
        """The SAE as it stands; the trainer is given back."""
        sae = self.made(self.library.cusae_trainer_sae, trainer)
        self.library.cusae_trainer_destroy(trainer)
        return sae

    def encode(self, sae, x):
        """Encodes, and returns the number of active features."""
        features = POINTER(Features)()
        self.call(self.library.cusae_encode, sae, x.ctypes.data, len(x), HOST, byref(features))
        entries = features.contents.entries
        self.library.cusae_features_destroy(features)
        return entries
