/* cusae.h: sparse autoencoders (SAEs) from C and C++. Link with -lcusae (libcusae.so or libcusae.a).
 *
 *     cusae_engine *engine;
 *     cusae_sae *sae;
 *     cusae_features *features;
 *     if (cusae_engine_create("auto", &engine) || cusae_sae_load(engine, "path/to/sae", &sae) ||
 *         cusae_encode(sae, x, rows, CUSAE_HOST, &features))
 *         fprintf(stderr, "%s\n", cusae_error_text());
 *
 * Errors. A function that can fail returns CUSAE_OK (0) or one of enum cusae_status, and cusae_error_text() says
 * in a sentence what was found, what was expected and what to do. After an error outputs are as they were, or, in
 * memory of the caller, undefined. Nothing here prints, exits or throws. A null handle or pointer is an error,
 * not a crash; any other pointer is taken to be what this file says it is.
 *
 * Ownership. What a *_create, *_load or other function hands out through `out` belongs to the caller, who gives it
 * back with the *_destroy function of its type; these accept NULL. An engine may be destroyed before what was made
 * with it. A `const char *` that is returned belongs to the library and lives as long as the handle asked for it,
 * if nothing else is said. The caller's memory is never kept after a call, with one exception: cusae_train_step.
 *
 * Threads. Any function may be called from any thread, and all handles may be used by several threads at once: calls
 * on one handle wait for each other. Only the *_destroy functions want that nobody else uses the handle. The last
 * error is each thread's own. The CPU device computes with all cores (RAYON_NUM_THREADS sets another number); its
 * results do not depend on how many. On a GPU functions leave the engine's device as the calling thread's current one.
 *
 * Arrays are row-major, their last dimension contiguous, float is IEEE single precision. Dimensions in comments:
 *   rows: tokens of a batch   d_in: width of the activations   d_out: width of the reconstruction (d_in, but for
 *   transcoders)   d_sae: number of latents
 * Text is UTF-8, and ends with a 0.
 */
#ifndef CUSAE_H
#define CUSAE_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status ---------------------------------------------------------------------------------- */

/** What a function returns. */
enum cusae_status {
    CUSAE_OK = 0,
    CUSAE_ERROR_ARGUMENT = 1,   /**< A null pointer, a number that does not fit, text that is not UTF-8. */
    CUSAE_ERROR_CONFIG = 2,     /**< A setting of a recipe, or the name of an SAE, that cannot be used. */
    CUSAE_ERROR_IO = 3,         /**< A file or folder could not be opened, read, written, or fetched. */
    CUSAE_ERROR_FORMAT = 4,     /**< A file holds something else than it should. */
    CUSAE_ERROR_SHAPE = 5,      /**< Sizes that do not fit together. */
    CUSAE_ERROR_DEVICE = 6,     /**< A device that was asked for cannot be used. */
    CUSAE_ERROR_KERNEL = 7,     /**< A device failed. */
    CUSAE_ERROR_NON_FINITE = 8, /**< Training met a number that is infinite or none. */
    CUSAE_ERROR_INTERNAL = 9    /**< A defect of this library; the handles of the call should be destroyed. */
};

/** What went wrong in this thread's last call that failed, as a sentence; "" if none has. Valid until the thread's
 * next call that fails. */
const char *cusae_error_text(void);

/** The version of the library, as "0.1.0". Lives forever. */
const char *cusae_version(void);

/* ---- Engine ---------------------------------------------------------------------------------- */

/** A device that computes. */
typedef struct cusae_engine cusae_engine;

/** Where memory that is handed over lies. */
enum cusae_memory {
    CUSAE_HOST = 0,  /**< In the memory of the process. */
    CUSAE_DEVICE = 1 /**< In the memory of the engine's device. On the CPU both are the same. Who has written it on a
                        stream of his own waits for that stream before the call. */
};

/** Opens a device: "auto" (the first NVIDIA GPU if it can be used, else the CPU), "cpu", "cuda", "cuda:N" or, in
 * builds for tests, "emulated". Errors: DEVICE, with the reason; ARGUMENT. */
int cusae_engine_create(const char *device, cusae_engine **out);

/** Gives the engine back. What was made with it stays usable. */
void cusae_engine_destroy(cusae_engine *engine);

/** What computes, in words for people, as "CPU, 2 threads"; NULL for a null engine. */
const char *cusae_engine_describe(const cusae_engine *engine);

/** Waits until all work that was queued on the device is done. Errors: KERNEL, of work before; ARGUMENT. */
int cusae_engine_synchronize(const cusae_engine *engine);

/* ---- An SAE at work -------------------------------------------------------------------------- */

/** An SAE that encodes and decodes. */
typedef struct cusae_sae cusae_sae;

/** Dimensions. */
typedef struct cusae_sizes {
    size_t d_in;  /**< Width of the activations. */
    size_t d_out; /**< Width of the reconstruction. */
    size_t d_sae; /**< Number of latents. */
} cusae_sizes;

/** Active features of many rows, as compressed sparse rows. cusae_encode makes one that belongs to the library and
 * does not change; for cusae_decode the caller may fill in one of his own. All arrays lie in host memory. */
typedef struct cusae_features {
    size_t rows;              /**< Rows. */
    size_t entries;           /**< Active features of all rows: indptr[rows]. */
    const size_t *indptr;     /**< [rows + 1]: row r has the entries indptr[r] to indptr[r + 1] - 1. */
    const uint32_t *indices;  /**< [entries]: latents, ascending in every row where cusae_encode made it. */
    const float *values;      /**< [entries]: their values, none of them 0 where cusae_encode made it. */
    const float *row_scale;   /**< [rows], where the SAE normalises activations (layer_norm, constant_norm_rescale),
                                 else NULL: what decoded rows are multiplied with to get their size back. */
    const float *row_shift;   /**< [rows], as row_scale: what is added then. */
} cusae_features;

/** Loads an SAE by its name, as the commands' --sae takes it: a folder or file in any layout that `cusae` reads,
 * RELEASE:ID of SAELens' registry ("gpt2-small-res-jb:blocks.8.hook_resid_pre"), or REPOSITORY:PATH on the Hugging Face
 * Hub. What lies on the Hub is fetched into its cache first, silently. Errors: CONFIG (the name), IO (also of the Hub),
 * FORMAT, KERNEL (out of memory), ARGUMENT. */
int cusae_sae_load(const cusae_engine *engine, const char *name, cusae_sae **out);

/** Gives the SAE back. */
void cusae_sae_destroy(cusae_sae *sae);

/** Its dimensions. Errors: ARGUMENT. */
int cusae_sae_sizes(const cusae_sae *sae, cusae_sizes *out);

/** Its configuration: what SAELens' cfg.json holds, as JSON. NULL for a null SAE. */
const char *cusae_sae_config(const cusae_sae *sae);

/** The name of a weight, as SAELens calls it ("W_dec", "W_enc", "b_dec", ...), for index 0, 1, ...; NULL after the last
 * one, and for a null SAE. */
const char *cusae_sae_weight_name(const cusae_sae *sae, size_t index);

/** Shape of a weight: shape[0] and shape[1], which is 1 for a vector. As SAELens has them: W_enc [d_in, d_sae],
 * W_dec [d_sae, d_out], b_enc [d_sae], b_dec [d_out]. Errors: ARGUMENT (there is no such weight). */
int cusae_sae_weight_shape(const cusae_sae *sae, const char *name, size_t shape[2]);

/** Copies a weight to host memory `out` with room for `capacity` numbers. Errors: ARGUMENT (no such weight, too little
 * room), KERNEL. */
int cusae_sae_weight(const cusae_sae *sae, const char *name, float *out, size_t capacity);

/** Features of `x` [rows, d_in]. They come to host memory, wherever x lies. Errors: ARGUMENT, KERNEL. */
int cusae_encode(const cusae_sae *sae, const float *x, size_t rows, enum cusae_memory memory, cusae_features **out);

/** Gives back features that cusae_encode made. */
void cusae_features_destroy(cusae_features *features);

/** The same features, dense: `out` [rows, d_sae], most of it 0. Both x and out lie in `memory`. Returns when out is
 * written. Errors: ARGUMENT, KERNEL. */
int cusae_encode_dense(const cusae_sae *sae, const float *x, size_t rows, enum cusae_memory memory, float *out);

/** Reconstruction from features: `out` [rows, d_out], in `memory`. What a skip transcoder adds to it is not in the
 * features: see cusae_reconstruct. Returns when out is written. Errors: ARGUMENT (a null array, arrays that do not fit
 * together, row_scale or row_shift missing where the SAE normalises), SHAPE (a latent that is not below d_sae),
 * KERNEL. */
int cusae_decode(const cusae_sae *sae, const cusae_features *features, enum cusae_memory memory, float *out);

/** Encodes and decodes in one go, on the device: `x` [rows, d_in] to `out` [rows, d_out], both in `memory`. Returns
 * when out is written. Errors: ARGUMENT, KERNEL. */
int cusae_reconstruct(const cusae_sae *sae, const float *x, size_t rows, enum cusae_memory memory, float *out);

/** Writes the SAE as SAELens' `SAE.load_from_disk` reads it: cfg.json and sae_weights.safetensors in `folder`, which
 * is made. Errors: IO, CONFIG (an architecture that SAELens does not have), KERNEL, ARGUMENT. */
int cusae_sae_save(const cusae_sae *sae, const char *folder);

/* ---- An SAE in training ---------------------------------------------------------------------- */

/** An SAE in training, with its optimizer's state. */
typedef struct cusae_trainer cusae_trainer;

/** A term of the loss. */
typedef struct cusae_loss {
    const char *name; /**< SAELens' name, as "mse_loss". */
    double value;     /**< The mean over the batch, its coefficient multiplied in. */
} cusae_loss;

/** What a training step measured. */
typedef struct cusae_report {
    uint64_t step;             /**< Steps done. */
    double overall_loss;       /**< Sum of all terms. */
    double l0;                 /**< Mean number of active latents in a row. */
    double explained_variance; /**< 1 - sum |x_hat - x|^2 / sum |x - mean|^2. */
    double grad_norm;          /**< Norm of the gradient of all weights, before it was clipped. */
    uint64_t n_dead;           /**< Latents that had not fired for longer than dead_feature_window. */
    const cusae_loss *losses;  /**< The terms; the trainer's, until its next report. */
    size_t n_losses;           /**< How many. */
} cusae_report;

/** Makes an SAE in training for activations of width `d_in`, with `d_sae` latents (0: what the recipe says). `recipe`
 * is TOML as `cusae train` reads it, whose keys are SAELens' (README.md lists them); keys that it does not have keep
 * their defaults, NULL keeps all. Of its keys those about the SAE and the training count; from_pretrained_path names
 * an SAE to start from. Errors: CONFIG (with the key), IO and FORMAT (from_pretrained_path), KERNEL (out of memory),
 * ARGUMENT. */
int cusae_trainer_create(const cusae_engine *engine, size_t d_in, size_t d_sae, const char *recipe,
                         cusae_trainer **out);

/** Gives the trainer back. */
void cusae_trainer_destroy(cusae_trainer *trainer);

/** Its dimensions. Errors: ARGUMENT. */
int cusae_trainer_sizes(const cusae_trainer *trainer, cusae_sizes *out);

/** Rows of a batch: train_batch_size_tokens. 0 for a null trainer. */
size_t cusae_trainer_rows(const cusae_trainer *trainer);

/** Its recipe, complete, as TOML. NULL for a null trainer. */
const char *cusae_trainer_recipe(const cusae_trainer *trainer);

/** With normalize_activations = "expected_average_only_in": sets the factor on the activations, sqrt(d_in) by their
 * mean norm; 1 until then. To be called before the first step. Errors: ARGUMENT (steps were done, or the factor is not
 * above 0), CONFIG (the recipe has another normalisation). */
int cusae_trainer_set_input_scale(cusae_trainer *trainer, float factor);

/** Trains on one batch `x` [rows, d_in], where rows is cusae_trainer_rows(trainer). On a GPU the step is only queued: x
 * in host memory may be reused at once, x in device memory must stay as it is until cusae_engine_synchronize,
 * cusae_trainer_report or another call that reads results has returned. Errors: ARGUMENT (another number of rows),
 * CONFIG (the steps of training_tokens are done), KERNEL. */
int cusae_train_step(cusae_trainer *trainer, const float *x, size_t rows, enum cusae_memory memory);

/** What the latest step measured; waits for it. Errors: NON_FINITE (of any step so far), KERNEL, ARGUMENT (no step was
 * done yet). */
int cusae_trainer_report(cusae_trainer *trainer, cusae_report *out);

/** A copy of the SAE as it stands, ready to encode and decode; the trainer goes on. Errors: KERNEL, ARGUMENT. */
int cusae_trainer_sae(const cusae_trainer *trainer, cusae_sae **out);

/** Writes the SAE as it stands, as cusae_sae_save does, with sparsity.safetensors and runner_cfg.json as SAELens'
 * training writes them. Errors: IO, KERNEL, ARGUMENT. */
int cusae_trainer_save(cusae_trainer *trainer, const char *folder);

#ifdef __cplusplus
}
#endif

#endif /* CUSAE_H */
