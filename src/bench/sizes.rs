//! The sizes at which operations are timed.

/// Dimensions of an SAE's training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaeSizes {
    /// Rows (tokens) of a batch (`B`).
    pub rows: usize,
    /// Width of the activations (`D`).
    pub d_in: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// Active latents of a row.
    pub k: usize,
}

/// Dimensions of a GPT-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LmSizes {
    /// Tokens that run through the model at once.
    pub rows: usize,
    /// Contexts (`T`), each a divisor of `rows`.
    pub contexts: &'static [usize],
    /// Blocks before the hook that activations are read at.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Heads; each is `d_model / n_heads` wide, the MLP `4 * d_model`.
    pub n_heads: usize,
    /// Vocabulary (`V`).
    pub d_vocab: usize,
}

/// One set of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Its name on the command line.
    pub name: &'static str,
    /// The SAE.
    pub sae: SaeSizes,
    /// The language model, where it is timed too.
    pub lm: Option<LmSizes>,
}

impl Sizes {
    /// The embedded model and the default recipe.
    pub const SMALL: Sizes = Sizes {
        name: "small",
        sae: SaeSizes { rows: 2048, d_in: 128, d_sae: 2048, k: 32 },
        lm: Some(LmSizes { rows: 4096, contexts: &[128], layers: 2, d_model: 128, n_heads: 4, d_vocab: 4096 }),
    };
    /// GPT-2 small with the SAE of `gpt2-small-res-jb`.
    pub const GPT2: Sizes = Sizes {
        name: "gpt2",
        sae: SaeSizes { rows: 4096, d_in: 768, d_sae: 24_576, k: 32 },
        lm: Some(LmSizes { rows: 4096, contexts: &[128, 1024], layers: 8, d_model: 768, n_heads: 12, d_vocab: 50_257 }),
    };
    /// An SAE for Gemma 2 2B; the model itself is none that runs here.
    pub const GEMMA: Sizes =
        Sizes { name: "gemma", sae: SaeSizes { rows: 4096, d_in: 2304, d_sae: 65_536, k: 64 }, lm: None };
    /// GPT-2 small once more, at contexts that double.
    pub const CONTEXTS: Sizes = Sizes {
        name: "contexts",
        sae: Sizes::GPT2.sae,
        lm: Some(LmSizes {
            rows: 4096,
            contexts: &[32, 64, 128, 256, 512, 1024],
            layers: 8,
            d_model: 768,
            n_heads: 12,
            d_vocab: 50_257,
        }),
    };
    /// All of them.
    pub const ALL: [Sizes; 4] = [Sizes::SMALL, Sizes::GPT2, Sizes::GEMMA, Sizes::CONTEXTS];

    /// The sizes of this name.
    pub fn named(name: &str) -> Option<Sizes> {
        Sizes::ALL.into_iter().find(|sizes| sizes.name == name)
    }
}

impl LmSizes {
    /// Width of a head.
    pub fn d_head(&self) -> usize {
        self.d_model / self.n_heads
    }

    /// Width of the MLP.
    pub fn d_mlp(&self) -> usize {
        4 * self.d_model
    }
}
