/* api.h: the contract between the host and the kernels.
 *
 * One struct of arguments and one function per operation, named as everywhere else in the project;
 * a table of these functions is all that a host needs. nvcc provides one table, the test emulator
 * another: both compile the same files.
 *
 * Every function takes (arguments, stream), queues its work on the stream and returns a status:
 * 0, a CUDA error code (positive), or one of CUSAE_E* (negative). It never exits and never prints.
 * All pointers in arguments point to device memory that starts on a multiple of 16 bytes; NULL only
 * where a comment says so. A matrix is row-major, its last dimension contiguous. Outputs do not
 * overlap inputs unless a field is marked "in and out".
 *
 * What lies in buffers is checked where it may come from outside: tokens and rows, in the kernels. Lists
 * of latents are not: by row they are what an encode_* operation has left, or what the host has checked as
 * it wrote them (counts at most S, latents below F and ascending); by latent what transpose_lists has made
 * of them; dead latents what find_dead has found. To check each entry again would cost every training step.
 *
 * Dimensions in comments:
 *   B rows (tokens) of a batch   D width of an activation (d_in, d_model)   F latents (d_sae)
 *   k entries of a row           T positions of a sequence (context)        H heads
 *   V vocabulary                 S room for entries in each row of lists (stride)
 */
#ifndef CUSAE_API_H
#define CUSAE_API_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status ---------------------------------------------------------------------------------- */

#define CUSAE_OK 0
/** Arguments that the operation's `needs` line excludes; error_text says which. */
#define CUSAE_EINVAL (-1)
/** A kernel met an index outside its matrix; take_fault says which. Reported by synchronize. */
#define CUSAE_EINDEX (-3)

/** Which index an operation found outside its matrix. */
enum cusae_fault_kind {
    CUSAE_FAULT_NONE = 0,
    CUSAE_FAULT_EMBED_TOKEN = 1,
    CUSAE_FAULT_UNEMBED_TARGET = 2,
    CUSAE_FAULT_GATHER_SOURCE = 3,
    CUSAE_FAULT_SCATTER_SOURCE = 4,
    CUSAE_FAULT_SCATTER_DESTINATION = 5,
};

/** The first index outside its matrix that was noticed since the last report. */
typedef struct cusae_fault {
    uint32_t kind;  /**< enum cusae_fault_kind. */
    uint32_t index; /**< What was asked for. */
    uint32_t limit; /**< What there is: valid are 0..limit. */
    uint32_t unused;
} cusae_fault;

/* ---- Runtime --------------------------------------------------------------------------------- */

/** A queue of work on one device, with the scratch memory of the operations on it. */
typedef struct cusae_stream cusae_stream;
/** A moment in a stream. */
typedef struct cusae_event cusae_event;
/** Recorded work that can be launched again. */
typedef struct cusae_graph cusae_graph;

/** What a device is and has. */
typedef struct cusae_device {
    char name[256];              /**< As the driver calls it, 0-terminated. */
    int32_t compute_major;       /**< Compute capability, 9 of 9.0. */
    int32_t compute_minor;       /**< Compute capability, 0 of 9.0. */
    int32_t multiprocessors;     /**< Streaming multiprocessors. */
    int32_t driver_version;      /**< Newest CUDA that the driver knows, 13000 for 13.0. */
    int32_t runtime_version;     /**< CUDA of the runtime compiled in, likewise. */
    int32_t unused;
    uint64_t memory_total_bytes; /**< Memory of the device. */
    uint64_t memory_free_bytes;  /**< Of it free now. */
} cusae_device;

/* ---- Operations of the language model ---------------------------------------------------------- */

/** resid[r, :] = w_e[tokens[r], :] + w_pos[past + r % T, :]. */
typedef struct cusae_embed {
    const uint32_t* tokens; /**< [rows] u32, each below d_vocab. */
    const float* w_e;       /**< [V, D] f32. */
    const float* w_pos;     /**< [past + T or more, D] f32. */
    float* embed;           /**< Out [rows, D] f32: the token embedding alone; NULL: not wanted. */
    float* pos_embed;       /**< Out [rows, D] f32: the position embedding alone; NULL: not wanted. */
    float* resid;           /**< Out [rows, D] f32. */
    uint64_t rows;          /**< Sequences times T. */
    uint64_t context;       /**< T. */
    uint64_t past;          /**< Position of a sequence's first row. */
    uint64_t d_model;       /**< D. */
    uint64_t d_vocab;       /**< V. */
} cusae_embed;

/** Where layer_norm starts. */
enum cusae_layer_norm_from {
    CUSAE_FROM_INPUT = 0,      /**< Everything is computed from x. */
    CUSAE_FROM_SCALE = 1,      /**< scale is read instead of written. */
    CUSAE_FROM_NORMALIZED = 2, /**< normalized is read instead of written; x, scale unused. */
};

/** normalized = (x - mean) / scale, scale = sqrt(var + epsilon) (biased), output = normalized * gain + bias. */
typedef struct cusae_layer_norm {
    const float* x;    /**< [rows, D] f32. */
    const float* gain; /**< [D] f32; NULL: 1. */
    const float* bias; /**< [D] f32; NULL: 0. */
    float* scale;      /**< [rows] f32, out, or in with CUSAE_FROM_SCALE; NULL: not wanted. */
    float* normalized; /**< [rows, D] f32, out, or in with CUSAE_FROM_NORMALIZED; NULL: not wanted. */
    float* output;     /**< Out [rows, D] f32. */
    uint64_t rows;     /**< Rows. */
    uint64_t d_model;  /**< D. */
    float epsilon;     /**< Added to the variance. */
    uint32_t from;     /**< enum cusae_layer_norm_from. */
} cusae_layer_norm;

/** Activation functions, by Hugging Face's names. */
enum cusae_function {
    CUSAE_IDENTITY = 0,   /**< x. */
    CUSAE_RELU = 1,       /**< max(x, 0). */
    CUSAE_GELU_TANH = 2,  /**< 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). */
    CUSAE_GELU_ERF = 3,   /**< 0.5 x (1 + erf(x / sqrt(2))). */
    CUSAE_SILU = 4,       /**< x sigmoid(x). */
    CUSAE_QUICK_GELU = 5, /**< x sigmoid(1.702 x). */
    CUSAE_TANH = 6,       /**< tanh(x). */
};

/** What the operands of a product are; its sums and its result are f32 whatever they are. */
enum cusae_type {
    CUSAE_F32 = 0,  /**< f32. */
    CUSAE_BF16 = 1, /**< bf16: the upper half of an f32. */
};

/** out = function(x w + bias) + residual. */
typedef struct cusae_linear {
    const void* x;            /**< [rows, d_input] of type. */
    const void* w;            /**< [d_input, d_output] of type, or [d_output, d_input] when transposed. */
    const float* bias;        /**< [d_output] f32; NULL: none. */
    const float* residual;    /**< [rows, d_output] f32; NULL: none. */
    float* out;               /**< Out [rows, d_output] f32. */
    uint64_t rows;            /**< Rows. */
    uint64_t d_input;         /**< Width of x. */
    uint64_t d_output;        /**< Width of out. */
    uint32_t w_is_transposed; /**< 1: w is [d_output, d_input], as bf16 must be. */
    uint32_t function;        /**< enum cusae_function. */
    uint32_t type;            /**< enum cusae_type, of x and w. */
    uint32_t unused;
} cusae_linear;

/** to[i] = function(to[i]). */
typedef struct cusae_activate {
    float* to;         /**< In and out [len] f32. */
    uint64_t len;      /**< Elements. */
    uint32_t function; /**< enum cusae_function. */
    uint32_t unused;
} cusae_activate;

/** Dimensions of attention: T queries of each sequence are at the positions from `past` on. */
typedef struct cusae_attention_dims {
    uint64_t rows;    /**< Queries: sequences times T. */
    uint64_t context; /**< T. */
    uint64_t past;    /**< Positions before the first query. */
    uint64_t room;    /**< Positions of each sequence that k and v have room for, past + T or more. */
    uint64_t n_heads; /**< H. */
    uint64_t d_head;  /**< Width of a head. */
} cusae_attention_dims;

/** z = softmax(scale q kT, positions up to the query's own) v, per sequence and head. */
typedef struct cusae_attention {
    const float* q;            /**< [rows, H, d_head] f32. */
    const float* k;            /**< [sequences, room, H, d_head] f32. */
    const float* v;            /**< [sequences, room, H, d_head] f32. */
    float* z;                  /**< Out [rows, H, d_head] f32. */
    cusae_attention_dims dims; /**< Dimensions. */
    float scale;               /**< Factor on the scores. */
    uint32_t unused;
} cusae_attention;

/** pattern = softmax(scale q kT, positions up to the query's own), zero after it. */
typedef struct cusae_attention_pattern {
    const float* q;            /**< [rows, H, d_head] f32. */
    const float* k;            /**< [sequences, room, H, d_head] f32. */
    float* pattern;            /**< Out [sequences, H, T, past + T] f32, query by key. */
    cusae_attention_dims dims; /**< Dimensions. */
    float scale;               /**< Factor on the scores. */
    uint32_t unused;
} cusae_attention_pattern;

/** z = pattern v, whatever the pattern holds, above the diagonal too. */
typedef struct cusae_attention_mix {
    const float* pattern;      /**< [sequences, H, T, past + T] f32. */
    const float* v;            /**< [sequences, room, H, d_head] f32. */
    float* z;                  /**< Out [rows, H, d_head] f32. */
    cusae_attention_dims dims; /**< Dimensions. */
} cusae_attention_mix;

/** to[i] += from[i]. */
typedef struct cusae_add {
    const float* from; /**< [len] f32. */
    float* to;         /**< In and out [len] f32. */
    uint64_t len;      /**< Elements. */
} cusae_add;

/** loss[r] = -log softmax(x[r] w_uT + b_u)[targets[r]], in nats. */
typedef struct cusae_unembed_cross_entropy {
    const float* x;          /**< [rows, D] f32. */
    const float* w_u;        /**< [V, D] f32. */
    const float* b_u;        /**< [V] f32; NULL: none. */
    const uint32_t* targets; /**< [rows] u32, each below V. */
    float* loss;             /**< Out [rows] f32. */
    uint64_t rows;           /**< Rows. */
    uint64_t d_model;        /**< D. */
    uint64_t d_vocab;        /**< V. */
} cusae_unembed_cross_entropy;

/** kl[r] = KL(softmax(x[r] w_uT + b_u) || softmax(y[r] w_uT + b_u)), in nats. */
typedef struct cusae_unembed_kl_divergence {
    const float* x;   /**< [rows, D] f32: the clean run. */
    const float* y;   /**< [rows, D] f32: the other run. */
    const float* w_u; /**< [V, D] f32. */
    const float* b_u; /**< [V] f32; NULL: none. */
    float* kl;        /**< Out [rows] f32. */
    uint64_t rows;    /**< Rows. */
    uint64_t d_model; /**< D. */
    uint64_t d_vocab; /**< V. */
} cusae_unembed_kl_divergence;

/** A token drawn from softmax(logits / temperature) of each row, of its likeliest tokens only. */
typedef struct cusae_sample_token {
    const float* logits; /**< [rows, V] f32. */
    uint32_t* tokens;    /**< Out [rows] u32; V for a row whose logits are all NaN or -infinity. */
    uint64_t rows;       /**< Rows. */
    uint64_t d_vocab;    /**< V. */
    uint64_t top_k;      /**< Tokens below the top_k-th largest logit are left out; 0: none. */
    uint64_t seed;       /**< Of the random numbers. */
    uint64_t step;       /**< Which of the draws with this seed. */
    float temperature;   /**< 0: the largest logit, ties to the smaller token. */
    float top_p;         /**< The least likely tokens are left out, up to probability 1 - top_p in all; 1: none. */
} cusae_sample_token;

/* ---- Operations of the SAE --------------------------------------------------------------------- */

/** What changes from step to step: in device memory, so that recorded work finds it anew. */
typedef struct cusae_step_scalars {
    float step_size;       /**< lr / (1 - b1^t). */
    float root_correction; /**< sqrt(1 - b2^t). */
    float coefficient;     /**< Factor on the sparsity term. */
    uint32_t step;         /**< t, from 1. */
} cusae_step_scalars;

/** to[i, :] = from[rows[i], :]. */
typedef struct cusae_gather_rows {
    const float* from;    /**< [from_rows, columns] f32. */
    const uint32_t* rows; /**< [n] u32, each below from_rows. */
    float* to;            /**< Out [n, columns] f32. */
    uint64_t n;           /**< Rows gathered. */
    uint64_t from_rows;   /**< Rows there are. */
    uint64_t columns;     /**< Width of a row. */
} cusae_gather_rows;

/** to[to_rows[i], :] = from[from_rows[i], :]. */
typedef struct cusae_scatter_rows {
    const float* from;         /**< [from_limit, columns] f32. */
    const uint32_t* from_rows; /**< [n] u32, each below from_limit. */
    const uint32_t* to_rows;   /**< [n] u32, each below to_limit, all different. */
    float* to;                 /**< In and out [to_limit, columns] f32. */
    uint64_t n;                /**< Rows copied. */
    uint64_t from_limit;       /**< Rows of from. */
    uint64_t to_limit;         /**< Rows of to. */
    uint64_t columns;          /**< Width of a row. */
} cusae_scatter_rows;

/** Normalisation of a batch, row by row. */
enum cusae_normalization {
    CUSAE_NORMALIZE_NONE = 0,       /**< As it is. */
    CUSAE_NORMALIZE_LAYER_NORM = 1, /**< (x - mean) / (std + 1e-5), std with D - 1. */
    CUSAE_NORMALIZE_CONSTANT = 2,   /**< x sqrt(D) / |x|. */
};

/** target = scale x; input = normalise(target) - b_dec; x_hat = y row_scale + row_shift undoes it. */
typedef struct cusae_prepare_input {
    const float* x;         /**< [B, D] f32. */
    const float* b_dec;     /**< [D] f32; NULL: none. */
    float* target;          /**< Out [B, D] f32. */
    float* input;           /**< Out [B, D] f32. */
    float* row_scale;       /**< Out [B] f32, written only when normalising. */
    float* row_shift;       /**< Out [B] f32, likewise. */
    uint64_t rows;          /**< B. */
    uint64_t d_in;          /**< D. */
    float scale;            /**< Factor on x. */
    uint32_t normalization; /**< enum cusae_normalization. */
} cusae_prepare_input;

/** The encoder's weights and one batch: h = input w_encT + b_enc. */
typedef struct cusae_encoder {
    const void* input;  /**< [B, D] of type. */
    const void* w_enc;  /**< [F, D] of type. */
    const float* b_enc; /**< [F] f32. */
    uint64_t rows;      /**< B. */
    uint64_t d_in;      /**< D. */
    uint64_t d_sae;     /**< F. */
    uint32_t type;      /**< enum cusae_type, of input and w_enc. */
    uint32_t unused;
} cusae_encoder;

/** Active latents by row: row b owns counts[b] entries from b * stride on, latents ascending. */
typedef struct cusae_lists {
    uint32_t* counts;  /**< [B] u32, each at most stride. */
    uint32_t* indices; /**< [B, S] u32, latents. */
    float* values;     /**< [B, S] f32. */
    uint64_t stride;   /**< S. */
} cusae_lists;

/** The k largest h (times decoder_norm) of every row, ties to the smaller latent; those with h > 0 are listed. */
typedef struct cusae_encode_topk {
    cusae_encoder encoder;     /**< Weights and batch. */
    cusae_lists lists;         /**< Out, S >= k. */
    const float* decoder_norm; /**< [F] f32; NULL: 1. */
    uint64_t k;                /**< 1 to F. */
    uint32_t magnitude;        /**< 1: magnitudes are compared, those with h != 0 are listed. */
    uint32_t unused;
} cusae_encode_topk;

/** The n largest positive h (times decoder_norm) of the batch, ties to the smaller row, then latent. If all fit,
    threshold = (1 - threshold_lr) threshold + threshold_lr m, m the smallest selected, if any was. */
typedef struct cusae_encode_batch_topk {
    cusae_encoder encoder;     /**< Weights and batch. */
    cusae_lists lists;         /**< Out; rows with more than S entries make the lists invalid. */
    const float* decoder_norm; /**< [F] f32; NULL: 1. */
    double* threshold;         /**< In and out [1] f64. */
    uint32_t* longest;         /**< Out [1] u32: entries of the longest row, listed or not. */
    uint64_t n;                /**< 1 to B F. */
    double threshold_lr;       /**< Weight of this batch. */
} cusae_encode_batch_topk;

/** The latents of every row with h > threshold, value h, h > 0 too where bandwidth is 0; where it is not, those with
    |h - threshold| < bandwidth / 2 as well, value 0 where h <= threshold. */
typedef struct cusae_encode_jumprelu {
    cusae_encoder encoder;   /**< Weights and batch. */
    cusae_lists lists;       /**< Out; rows with more than S entries make the lists invalid. */
    const float* threshold;  /**< [F] f32. */
    float* pre_activations;  /**< Out [B, S] f32: h of every entry; NULL: not wanted. */
    uint32_t* longest;       /**< Out [1] u32: entries of the longest row, listed or not. */
    float bandwidth;         /**< 0: none. */
    uint32_t unused;
} cusae_encode_jumprelu;

/** The latents of every row with h > 0. */
typedef struct cusae_encode_relu {
    cusae_encoder encoder;  /**< Weights and batch. */
    cusae_lists lists;      /**< Out; rows with more than S entries make the lists invalid. */
    uint32_t* longest;      /**< Out [1] u32: entries of the longest row, listed or not. */
} cusae_encode_relu;

/** features = max(h, 0), dense. */
typedef struct cusae_encode_relu_dense {
    cusae_encoder encoder; /**< Weights and batch. */
    float* features;       /**< Out [B, F] f32. */
    uint32_t* counts;      /**< Out [B] u32: positive features. */
} cusae_encode_relu_dense;

/** The k dead latents, or all if they are fewer, with the largest h (times decoder_norm), whatever the sign. */
typedef struct cusae_encode_dead_topk {
    cusae_encoder encoder;     /**< Weights and batch. */
    cusae_lists lists;         /**< Out, S >= k; every row gets as many entries. */
    const float* decoder_norm; /**< [F] f32; NULL: 1. */
    const uint32_t* dead;      /**< [F] u32: the first *n_dead are the dead latents, ascending. */
    const uint32_t* n_dead;    /**< [1] u32. */
    uint64_t k;                /**< 1 to S. */
    uint32_t magnitude;        /**< 1: magnitudes are compared. */
    uint32_t unused;
} cusae_encode_dead_topk;

/** x_hat = (f w_dec + b_dec) row_scale + row_shift; gradient = gradient_scale row_scale (x_hat - target). */
typedef struct cusae_decoder {
    const void* w_dec;      /**< [F, D] of w_dec_type. */
    const float* b_dec;     /**< [D] f32; NULL: none. */
    const float* target;    /**< [B, D] f32. */
    const float* row_scale; /**< [B] f32; NULL: 1. */
    const float* row_shift; /**< [B] f32; NULL: 0. */
    float* reconstruction;  /**< Out [B, D] f32: x_hat; NULL: not wanted. */
    float* gradient;        /**< Out [B, D] f32. */
    float* squared_error;   /**< Out [B] f32: |x_hat - target|^2. */
    uint64_t rows;          /**< B. */
    uint64_t d_in;          /**< D. */
    uint64_t d_sae;         /**< F. */
    float gradient_scale;   /**< 2 / B for the mean squared error of a batch. */
    uint32_t w_dec_type;    /**< enum cusae_type; f32 in cusae_decode_dense, which rounds by itself. */
} cusae_decoder;

/** Decodes lists; value_gradient[b, j] = <gradient[b], w_dec[indices[b, j]]>. With n_dead (AuxK)
 *  gradient_scale counts min(*n_dead / full_dead, 1), and where *n_dead is 0 nothing is written. */
typedef struct cusae_decode_sparse {
    cusae_decoder decoder;  /**< Weights, target, outputs. */
    cusae_lists lists;      /**< The features. */
    const uint32_t* n_dead; /**< [1] u32; NULL: gradient_scale counts in full. */
    uint64_t full_dead;     /**< > 0 with n_dead. */
    float* value_gradient;  /**< Out [B, S] f32; NULL: not wanted. */
} cusae_decode_sparse;

/** Decodes dense features; feature_gradient = gradient w_decT where the feature is positive, else 0. */
typedef struct cusae_decode_dense {
    cusae_decoder decoder;   /**< Weights, target, outputs. */
    const float* features;   /**< [B, F] f32. */
    float* feature_gradient; /**< Out [B, F] f32. */
    uint32_t type;           /**< enum cusae_type that both products' operands are rounded to. */
    uint32_t unused;
} cusae_decode_dense;

/** loss[b] = coefficient (sum_i (f_i n_i)^p)^(1/p); its gradients times gradient_scale. */
typedef struct cusae_sparsity_lp {
    cusae_lists lists;         /**< The features. */
    const float* decoder_norm; /**< [F] f32: n. */
    float* value_gradient;     /**< In and out [B, S] f32: added to. */
    float* norm_gradient;      /**< Out [B, S] f32: with respect to each listed n_i. */
    float* loss;               /**< Out [B] f32. */
    const cusae_step_scalars* scalars; /**< [1]: the coefficient. */
    uint64_t rows;             /**< B. */
    float p;                   /**< > 0. */
    float gradient_scale;      /**< 1 / B for the mean over a batch. */
} cusae_sparsity_lp;

/** As cusae_sparsity_lp, on dense features; norm_gradient is summed over the batch. */
typedef struct cusae_sparsity_lp_dense {
    const float* features;     /**< [B, F] f32. */
    const float* decoder_norm; /**< [F] f32: n. */
    float* feature_gradient;   /**< In and out [B, F] f32: added to. */
    float* norm_gradient;      /**< Out [F] f32. */
    float* loss;               /**< Out [B] f32. */
    const cusae_step_scalars* scalars; /**< [1]: the coefficient. */
    uint64_t rows;             /**< B. */
    uint64_t d_sae;            /**< F. */
    float p;                   /**< > 0. */
    float gradient_scale;      /**< 1 / B for the mean over a batch. */
} cusae_sparsity_lp_dense;

/** What cusae_jumprelu_gradient takes as a row's sparsity. */
enum {
    CUSAE_SPARSITY_STEP = 0,      /**< The number of active latents. */
    CUSAE_SPARSITY_TANH = 1,      /**< sum tanh(parameter f_i n_i). */
    CUSAE_SPARSITY_QUADRATIC = 2, /**< 2 / parameter (L0 - parameter)^2. */
};

/** loss[b] = coefficient sparsity; the straight-through gradients of each entry's h, threshold and n. */
typedef struct cusae_jumprelu_gradient {
    cusae_lists lists;            /**< Of cusae_encode_jumprelu with this bandwidth. */
    const float* pre_activations; /**< [B, S] f32: h. */
    const float* threshold;       /**< [F] f32. */
    const float* decoder_norm;    /**< [F] f32: n. */
    float* value_gradient;        /**< In [B, S] f32: of the values; out: of h. */
    float* threshold_gradient;    /**< Out [B, S] f32. */
    float* norm_gradient;         /**< Out [B, S] f32. */
    uint32_t* active;             /**< Out [B] u32: latents with h > threshold. */
    float* loss;                  /**< Out [B] f32. */
    const cusae_step_scalars* scalars; /**< [1]: the coefficient. */
    uint64_t rows;                /**< B. */
    float bandwidth;              /**< > 0. */
    uint32_t ste_to_input;        /**< 1: the estimators' gradient reaches h too. */
    uint32_t sparsity;            /**< CUSAE_SPARSITY_... */
    float parameter;              /**< The scale of tanh, the target of quadratic. */
    float gradient_scale;         /**< 1 / B for the mean over a batch. */
    uint32_t unused;
} cusae_jumprelu_gradient;

/** From open gates pi = u + b_gate to features ReLU(exp(r_mag) u + b_mag), or without the ReLU. */
typedef struct cusae_gate {
    cusae_lists gates;    /**< Values pi. */
    cusae_lists features; /**< Out: the same counts and latents; values may be 0. */
    const float* b_gate;  /**< [F] f32. */
    const float* b_mag;   /**< [F] f32. */
    const float* r_mag;   /**< [F] f32. */
    uint64_t rows;        /**< B. */
    uint32_t rectify;     /**< 1: with the ReLU. */
    uint32_t unused;
} cusae_gate;

/** From the gradient of each feature's value to those of u, b_mag and r_mag. */
typedef struct cusae_gate_gradient {
    cusae_lists gates;     /**< Values pi. */
    cusae_lists features;  /**< What they let through. */
    const float* b_gate;   /**< [F] f32. */
    const float* r_mag;    /**< [F] f32. */
    float* value_gradient; /**< In [B, S] f32: of the values; out: of u. */
    float* b_mag_gradient; /**< Out [B, S] f32. */
    float* r_mag_gradient; /**< Out [B, S] f32. */
    uint64_t rows;         /**< B. */
} cusae_gate_gradient;

/** The entries with first <= latent < last. */
typedef struct cusae_slice_lists {
    cusae_lists lists; /**< By row. */
    cusae_lists out;   /**< Out, of the same stride. */
    uint64_t rows;     /**< B. */
    uint64_t first;    /**< First latent. */
    uint64_t last;     /**< Behind the last latent. */
} cusae_slice_lists;

/** value_gradient[b, j] = <gradient[b], w_dec[indices[b, j]]>. */
typedef struct cusae_gradient_values {
    cusae_lists lists;     /**< The features. */
    const void* w_dec;     /**< [F, D] of type. */
    const float* gradient; /**< [B, D] f32. */
    float* value_gradient; /**< Out [B, S] f32. */
    uint64_t rows;         /**< B. */
    uint64_t d_in;         /**< D. */
    uint32_t type;         /**< enum cusae_type, of w_dec. */
    uint32_t unused;
} cusae_gradient_values;

/** Entries by latent: latent i owns entries[offsets[i] .. offsets[i + 1]], each b * S + j, ascending. */
typedef struct cusae_latent_lists {
    uint32_t* offsets; /**< [F + 1] u32. */
    uint32_t* entries; /**< [B * S] u32. */
} cusae_latent_lists;

/** Lists by row into lists by latent: a stable counting sort. */
typedef struct cusae_transpose_lists {
    cusae_lists lists;            /**< By row; a latent at most once in a row. */
    cusae_latent_lists by_latent; /**< Out. */
    uint64_t rows;                /**< B. */
    uint64_t d_sae;               /**< F. */
} cusae_transpose_lists;

/** out[i] = sum of values[entry] over the entries of latent i. */
typedef struct cusae_sum_by_latent {
    const float* values;          /**< [B, S] f32. */
    cusae_latent_lists by_latent; /**< The entries. */
    float* out;                   /**< Out [F] f32. */
    uint64_t d_sae;               /**< F. */
} cusae_sum_by_latent;

/** Where the weights' gradients go. */
typedef struct cusae_weight_gradients {
    float* w_enc;        /**< Out [F, D] f32. */
    float* b_enc;        /**< Out [F] f32. */
    float* w_dec;        /**< Out [F, D] f32. */
    uint32_t accumulate; /**< 1: add to what is there. */
    uint32_t only_listed; /**< 1: lists leave rows of latents that they do not name as they are. */
} cusae_weight_gradients;

/** A decoder-norm term: g_w_dec[i] += (sum of norm_gradient of latent i) w_dec[i] / decoder_norm[i]. */
typedef struct cusae_norm_gradient {
    const float* norm_gradient; /**< [B, S] f32 beside lists, [F] f32 when dense; NULL: no such term. */
    const float* decoder_norm;  /**< [F] f32. */
    const float* w_dec;         /**< [F, D] f32. */
} cusae_norm_gradient;

/** g_w_dec[i] = sum value g[b], g_w_enc[i] = sum dh input[b], g_b_enc[i] = sum dh, in ascending b. */
typedef struct cusae_gradient_sparse {
    cusae_lists lists;            /**< The features by row. */
    cusae_latent_lists by_latent; /**< The same by latent. */
    const float* pre_gradient;    /**< [B, S] f32: dh. */
    const void* gradient;         /**< [B, D] of type: g. */
    const void* input;            /**< [B, D] of type. */
    cusae_norm_gradient norm;     /**< A decoder-norm term. */
    cusae_weight_gradients out;   /**< Out. */
    uint64_t rows;                /**< B. */
    uint64_t d_in;                /**< D. */
    uint64_t d_sae;               /**< F. */
    uint32_t type;                /**< enum cusae_type, of gradient and input. */
    uint32_t unused;
} cusae_gradient_sparse;

/** Gradients of W_enc and W_dec that are never in memory: gradient_sparse's sums, and rows stored of others. */
typedef struct cusae_listed_gradient {
    cusae_lists lists;            /**< The features by row. */
    cusae_latent_lists by_latent; /**< The same by latent. */
    const float* pre_gradient;    /**< [B, S] f32: dh. */
    const void* gradient;         /**< [B, D] of type: g. */
    const void* input;            /**< [B, D] of type. */
    const float* norm_gradient;   /**< [B, S] f32; NULL: no such term. */
    const float* stored_w_enc;    /**< [F, D] f32. */
    const float* stored_w_dec;    /**< [F, D] f32. */
    const uint32_t* stored_offsets; /**< [F + 1] u32: rows of latents with entries are added; NULL: none is. */
    uint64_t rows;                /**< B. */
    uint64_t d_in;                /**< D. */
    uint64_t d_sae;               /**< F. */
    uint32_t type;                /**< enum cusae_type, of gradient and input. */
    uint32_t unused;
} cusae_listed_gradient;

/** b_enc[i] = sum dh (+ b_enc[i] where a row is stored), squares[i] = |g_w_enc[i]|^2 + |g_w_dec[i]|^2. */
typedef struct cusae_gradient_squares {
    cusae_listed_gradient of;  /**< The gradient. */
    const float* w_dec;        /**< [F, D] f32. */
    const float* decoder_norm; /**< [F] f32. */
    float* b_enc;              /**< Out [F] f32; in where a row is stored. */
    double* squares;           /**< Out [F] f64. */
} cusae_gradient_squares;

/** A matrix of parameters and Adam's moments. */
typedef struct cusae_adam_state {
    float* parameter;  /**< In and out [F, D] f32. */
    float* exp_avg;    /**< In and out [F, D] f32. */
    float* exp_avg_sq; /**< In and out [F, D] f32. */
} cusae_adam_state;

/** adam over W_enc and W_dec with a listed gradient, and decoder_norm[i] = |w_dec[i]|. */
typedef struct cusae_adam_sparse {
    cusae_listed_gradient of; /**< The gradient. */
    cusae_adam_state w_enc;   /**< W_enc. */
    cusae_adam_state w_dec;   /**< W_dec. */
    float* decoder_norm;      /**< In and out [F] f32. */
    const float* clip;        /**< [1] f32. */
    const cusae_step_scalars* scalars; /**< [1]: step_size and root_correction. */
    float beta1;              /**< b1. */
    float beta2;              /**< b2. */
    float complement1;        /**< c1 = 1 - b1. */
    float complement2;        /**< c2 = 1 - b2. */
    float epsilon;            /**< Added to the root. */
    uint32_t unused;
} cusae_adam_sparse;

/** g_w_dec = featuresT g, g_w_enc = pre_gradientT input, g_b_enc = column sums of pre_gradient. */
typedef struct cusae_gradient_dense {
    const float* features;      /**< [B, F] f32. */
    const float* pre_gradient;  /**< [B, F] f32. */
    const float* gradient;      /**< [B, D] f32: g. */
    const float* input;         /**< [B, D] f32. */
    cusae_norm_gradient norm;   /**< A decoder-norm term. */
    cusae_weight_gradients out; /**< Out. */
    uint64_t rows;              /**< B. */
    uint64_t d_in;              /**< D. */
    uint64_t d_sae;             /**< F. */
    uint32_t type;              /**< enum cusae_type that both products' operands are rounded to. */
    uint32_t unused;
} cusae_gradient_dense;

/** loss[i] = coefficient n_i sum_b ReLU(threshold_i - h_bi) for dead latents, else 0; gradients are added. */
typedef struct cusae_pre_act_loss {
    cusae_encoder encoder;      /**< Weights and batch, f32. */
    const float* threshold;     /**< [F] f32. */
    const float* decoder_norm;  /**< [F] f32: n. */
    const float* w_dec;         /**< [F, D] f32. */
    const uint32_t* dead;       /**< [F] u32: the first *n_dead are the dead latents. */
    const uint32_t* n_dead;     /**< [1] u32. */
    cusae_weight_gradients out; /**< In and out: added to, whatever accumulate says. */
    float* threshold_gradient;  /**< In and out [F] f32: added to. */
    float* loss;                /**< Out [F] f32. */
    float coefficient;          /**< Factor on the term. */
    float gradient_scale;       /**< 1 / B for the mean over a batch. */
} cusae_pre_act_loss;

/** out = sum_b g[b] - sum_i g_b_enc[i] w_enc[i]. */
typedef struct cusae_gradient_b_dec {
    const float* gradient; /**< [B, D] f32: g. */
    const float* w_enc;    /**< [F, D] f32; NULL: without the second sum. */
    const float* g_b_enc;  /**< [F] f32; NULL likewise. */
    float* out;            /**< Out [D] f32. */
    uint64_t rows;         /**< B. */
    uint64_t d_in;         /**< D. */
    uint64_t d_sae;        /**< F. */
} cusae_gradient_b_dec;

/** Gradients that one clip_scale can take. */
#define CUSAE_MAX_GRADIENTS 16

/** norm = sqrt(sum g^2) over all gradients, scale = min(1, max_norm / (norm + 1e-6)). */
typedef struct cusae_clip_scale {
    const float* gradients[CUSAE_MAX_GRADIENTS]; /**< Each [lens[i]] f32. */
    uint64_t lens[CUSAE_MAX_GRADIENTS];          /**< Elements of each. */
    const double* squares;                       /**< [n_squares] f64: sums of squares of other gradients. */
    uint64_t n_squares;                          /**< How many; 0: there are none. */
    float* out;                                  /**< Out [2] f32: scale, norm. */
    uint32_t n_gradients;                        /**< How many. */
    uint32_t clip;                               /**< 0: scale is 1. */
    float max_norm;                              /**< Where clip is 1. */
    uint32_t unused;
} cusae_clip_scale;

/** g = clip[0] gradient; m = b1 m + c1 g; v = b2 v + c2 g^2; p -= step_size m / (sqrt(v) / root_correction + epsilon). */
typedef struct cusae_adam {
    float* parameter;      /**< In and out [len] f32: p. */
    const float* gradient; /**< [len] f32. */
    float* exp_avg;        /**< In and out [len] f32: m. */
    float* exp_avg_sq;     /**< In and out [len] f32: v. */
    const float* clip;     /**< [1] f32. */
    const cusae_step_scalars* scalars; /**< [1]: step_size and root_correction. */
    uint64_t len;          /**< Elements. */
    float beta1;           /**< b1. */
    float beta2;           /**< b2. */
    float complement1;     /**< c1 = 1 - b1. */
    float complement2;     /**< c2 = 1 - b2. */
    float epsilon;         /**< Added to the root. */
    uint32_t unused;
} cusae_adam;

/** *first = step where a sum or clip[1] is not finite and *first was 0. */
typedef struct cusae_note_non_finite {
    const double* sums;                /**< [n_sums] f64. */
    const float* clip;                 /**< [2] f32, of clip_scale. */
    const cusae_step_scalars* scalars; /**< [1]: the step. */
    uint32_t* first;                   /**< In and out [1] u32. */
    uint64_t n_sums;                   /**< Sums. */
} cusae_note_non_finite;

/** norms[i] = |matrix[i]|. */
typedef struct cusae_row_norms {
    const float* matrix; /**< [rows, columns] f32. */
    float* norms;        /**< Out [rows] f32. */
    uint64_t rows;       /**< Rows. */
    uint64_t columns;    /**< Width of a row. */
} cusae_row_norms;

/** to[i] = factor from[i]. */
typedef struct cusae_scale {
    const float* from; /**< [len] f32. */
    float* to;         /**< Out [len] f32. */
    uint64_t len;      /**< Elements. */
    float factor;      /**< The factor. */
    uint32_t unused;
} cusae_scale;

/** to[i] = from[i] in bf16, to the nearest, ties to the even one; NaN becomes 0x7fff. */
typedef struct cusae_round_bf16 {
    const float* from; /**< [len] f32. */
    uint16_t* to;      /**< Out [len] bf16. */
    uint64_t len;      /**< Elements. */
} cusae_round_bf16;

/** The latents from first to last with since_fired > window, ascending. */
typedef struct cusae_find_dead {
    const uint32_t* since_fired; /**< [F] u32. */
    uint32_t* dead;              /**< Out [F] u32: the first n_dead are written. */
    uint32_t* n_dead;            /**< Out [1] u32. */
    uint64_t first;              /**< First latent. */
    uint64_t last;               /**< Behind the last latent, at most F. */
    uint32_t window;             /**< In steps. */
    uint32_t unused;
} cusae_find_dead;

/** fired_count[i] += rows in which latent i is active; since_fired[i] = 0 if any, else + 1. */
typedef struct cusae_update_firing {
    const uint32_t* offsets; /**< [F + 1] u32, of lists by latent; NULL: dense. */
    const uint32_t* entries; /**< [B * S] u32, beside values. */
    const float* values;     /**< [B, S] f32: entries with 0 are not active; NULL: all are. */
    const float* features;   /**< [B, F] f32; NULL: lists. */
    uint32_t* fired_count;   /**< In and out [F] u32. */
    uint32_t* since_fired;   /**< In and out [F] u32. */
    uint64_t rows;           /**< B. */
    uint64_t d_sae;          /**< F. */
} cusae_update_firing;

/** out = sum of values. */
typedef struct cusae_sum {
    const float* values; /**< [len] f32. */
    double* out;         /**< Out [1] f64, on a multiple of 8 bytes. */
    uint64_t len;        /**< Elements. */
} cusae_sum;

/** variance[b] = |x[b] - mean row|^2. */
typedef struct cusae_row_variance {
    const float* x;  /**< [B, D] f32. */
    float* variance; /**< Out [B] f32. */
    uint64_t rows;   /**< B. */
    uint64_t d_in;   /**< D. */
} cusae_row_variance;

/** to[i] = factor[i] e^x[i]. */
typedef struct cusae_exponential {
    const float* x;      /**< [len] f32. */
    const float* factor; /**< [len] f32, or NULL: 1. */
    float* to;           /**< Out [len] f32. */
    uint64_t len;        /**< Elements. */
} cusae_exponential;

/** With r = error_scale error, s = |r| / (1e-6 + 2 |ghost|) of a row, e = s ghost - r, m = r^2 / (e^2 + 1e-6). */
typedef struct cusae_ghost_error {
    const float* ghost;   /**< [B, D] f32. */
    const float* error;   /**< [B, D] f32. */
    float* gradient;      /**< Out [B, D] f32: gradient_scale m e s. */
    float* loss;          /**< Out [B] f32: the sum of m e^2 over D. */
    uint64_t rows;        /**< B. */
    uint64_t d_in;        /**< D. */
    float error_scale;    /**< Factor on the error. */
    float gradient_scale; /**< Factor on the gradient. */
} cusae_ghost_error;

/** to[i] = pattern, for bf16 (2 bytes), f32, u32 (4 bytes), f64 (8 bytes) and cusae_step_scalars (16 bytes). */
typedef struct cusae_fill {
    void* to;               /**< Out [len] of element_bytes each. */
    uint64_t len;           /**< Elements. */
    uint64_t pattern[2];    /**< The value's bits; the first 16, 32 or 64 for 2, 4 or 8 bytes. */
    uint32_t element_bytes; /**< 2, 4, 8 or 16. */
    uint32_t unused;
} cusae_fill;

/** Every operation once: the table's fields, the declarations and the definitions all follow it. */
#define CUSAE_OPERATIONS(X) \
    X(embed) X(layer_norm) X(linear) X(activate) X(attention) X(attention_pattern) X(attention_mix) \
    X(add) X(unembed_cross_entropy) X(unembed_kl_divergence) X(sample_token) \
    X(gather_rows) X(scatter_rows) X(prepare_input) \
    X(encode_topk) X(encode_batch_topk) X(encode_jumprelu) X(encode_relu) X(encode_relu_dense) X(encode_dead_topk) \
    X(decode_sparse) X(decode_dense) X(sparsity_lp) X(sparsity_lp_dense) \
    X(jumprelu_gradient) X(pre_act_loss) X(gate) X(gate_gradient) X(slice_lists) X(sum_by_latent) X(gradient_values) \
    X(transpose_lists) X(gradient_sparse) X(gradient_squares) X(gradient_dense) X(gradient_b_dec) \
    X(clip_scale) X(adam) X(adam_sparse) X(row_norms) X(scale) X(round_bf16) X(find_dead) X(update_firing) \
    X(note_non_finite) X(sum) X(row_variance) X(exponential) X(ghost_error) X(fill)

/* ---- The table --------------------------------------------------------------------------------- */

/** All functions of one build. Runtime functions return a status too, unless said otherwise. */
typedef struct cusae_table {
    /** sizeof(cusae_table): a host compiled against another api.h sees another number. */
    uint64_t table_bytes;
    /** What a status means, as a sentence; valid until the next call of this thread. */
    const char* (*error_text)(int status);
    /** How many devices there are. 35: no driver, or too old a one. */
    int (*device_count)(int* count);
    /** What a device is. */
    int (*device_properties)(int ordinal, cusae_device* out);
    /** A stream on a device. */
    int (*stream_create)(cusae_stream** out, int ordinal);
    /** Ends a stream once its work is done. */
    int (*stream_destroy)(cusae_stream* stream);
    /** Waits for all work of the stream; errors of kernels appear here. */
    int (*synchronize)(cusae_stream* stream);
    /** The index behind CUSAE_EINDEX; it is forgotten by this call. */
    int (*take_fault)(cusae_stream* stream, cusae_fault* out);
    /** Memory on the stream's device, not initialised. */
    int (*memory_allocate)(void** out, uint64_t bytes, cusae_stream* stream);
    /** Gives memory back once all work of the device is done. */
    int (*memory_free)(void* memory, cusae_stream* stream);
    /** Sets every byte. */
    int (*memory_set)(void* to, int byte, uint64_t bytes, cusae_stream* stream);
    /** Host to device; the host's memory may be reused at once. */
    int (*copy_to_device)(void* to, const void* from, uint64_t bytes, cusae_stream* stream);
    /** Device to host; valid after synchronize. */
    int (*copy_to_host)(void* to, const void* from, uint64_t bytes, cusae_stream* stream);
    /** Device to device, not overlapping. */
    int (*copy_on_device)(void* to, const void* from, uint64_t bytes, cusae_stream* stream);
    /** An event on the stream's device. */
    int (*event_create)(cusae_event** out, cusae_stream* stream);
    /** Ends an event. */
    int (*event_destroy)(cusae_event* event);
    /** Marks the end of the work queued so far. */
    int (*event_record)(cusae_event* event, cusae_stream* stream);
    /** Waits for both events and says how long it took from one to the other. */
    int (*event_elapsed_ms)(float* out, cusae_event* from, cusae_event* to);
    /** From here on work is recorded, not done. Run it once before: scratch memory must have its size. */
    int (*capture_begin)(cusae_stream* stream);
    /** Ends the recording. */
    int (*capture_end)(cusae_graph** out, cusae_stream* stream);
    /** Queues recorded work on the stream that recorded it. */
    int (*graph_launch)(cusae_graph* graph, cusae_stream* stream);
    /** Ends a graph. */
    int (*graph_destroy)(cusae_graph* graph);
#define CUSAE_FIELD(name) int (*name)(const struct cusae_##name* arguments, cusae_stream* stream);
    CUSAE_OPERATIONS(CUSAE_FIELD)
#undef CUSAE_FIELD
} cusae_table;

#ifdef __cplusplus
}
#endif

#endif /* CUSAE_API_H */
