/* A program as a user would write it: loads SAEs that SAELens made, compares with what SAELens computes, trains one,
 * saves it and loads it again.
 *
 * use DEVICE DATA OUT: the device's name, tests/data/saes, an empty folder to write to. */
#include "numbers.h"
#include <pthread.h>

enum { ROWS = 32, D_IN = 64, D_SAE = 256 };

static cusae_engine *engine;

/* SAELens' own float32 and float64 results differ by 4e-6; a second float32 implementation gets 2e-5. */
static const double TOLERANCE = 2e-5;

static void describes_itself(const cusae_sae *sae, const char *folder) {
    cusae_sizes sizes;
    size_t shape[2], i, n_decoder = 0;
    float *w_dec = floats(D_SAE * D_IN);
    float *expected = read_tensor(path_of(folder, "sae_weights.safetensors"), "W_dec", D_SAE * D_IN);
    const char *name;
    OK(cusae_sae_sizes(sae, &sizes));
    CHECK(sizes.d_in == D_IN && sizes.d_out == D_IN && sizes.d_sae == D_SAE);
    CHECK(strstr(cusae_sae_config(sae), "\"hook_name\": \"blocks.2.hook_resid_pre\"") != NULL);
    for (i = 0; (name = cusae_sae_weight_name(sae, i)) != NULL; i++) n_decoder += strcmp(name, "W_dec") == 0;
    CHECK(i >= 4 && n_decoder == 1);
    OK(cusae_sae_weight_shape(sae, "W_enc", shape));
    CHECK(shape[0] == D_IN && shape[1] == D_SAE);
    OK(cusae_sae_weight_shape(sae, "b_dec", shape));
    CHECK(shape[0] == D_IN && shape[1] == 1);
    OK(cusae_sae_weight(sae, "W_dec", w_dec, D_SAE * D_IN));
    CHECK(memcmp(w_dec, expected, sizeof(float) * D_SAE * D_IN) == 0);
    free(w_dec);
    free(expected);
}

/** Features and reconstruction are SAELens', sparse and dense, from host and from device memory. */
static void computes_what_saelens_computes(const cusae_sae *sae, const char *folder, int normalizes, int has_skip) {
    const char *io = path_of(folder, "io.safetensors");
    float *x = read_tensor(io, "x", ROWS * D_IN), *acts = read_tensor(io, "feature_acts", ROWS * D_SAE);
    float *dense = floats(ROWS * D_SAE), *out = floats(ROWS * D_IN), *expected;
    enum cusae_memory memory[2] = {CUSAE_HOST, CUSAE_DEVICE};
    cusae_features *features, own;
    cusae_sizes sizes;
    size_t row, entry, i, len;
    OK(cusae_sae_sizes(sae, &sizes));
    len = ROWS * sizes.d_out;
    expected = read_tensor(io, "reconstruction", len);
    for (i = 0; i < 2; i++) {
        OK(cusae_encode(sae, x, ROWS, memory[i], &features));
        CHECK(features->rows == ROWS && features->entries == features->indptr[ROWS]);
        CHECK((features->row_scale != NULL) == normalizes && (features->row_shift != NULL) == normalizes);
        memset(dense, 0, sizeof(float) * ROWS * D_SAE);
        for (row = 0; row < ROWS; row++)
            for (entry = features->indptr[row]; entry < features->indptr[row + 1]; entry++) {
                CHECK(entry == features->indptr[row] || features->indices[entry - 1] < features->indices[entry]);
                CHECK(features->values[entry] != 0);
                dense[row * D_SAE + features->indices[entry]] = features->values[entry];
            }
        for (entry = 0; entry < ROWS * D_SAE; entry++) CHECK((dense[entry] != 0) == (acts[entry] != 0));
        CHECK(largest_difference(dense, acts, ROWS * D_SAE) <= TOLERANCE);
        OK(cusae_encode_dense(sae, x, ROWS, memory[i], dense));
        CHECK(largest_difference(dense, acts, ROWS * D_SAE) <= TOLERANCE);
        OK(cusae_reconstruct(sae, x, ROWS, memory[i], out));
        CHECK(largest_difference(out, expected, len) <= TOLERANCE);
        own = *features;
        OK(cusae_decode(sae, &own, memory[i], out));
        CHECK(has_skip != (largest_difference(out, expected, len) <= TOLERANCE));
        cusae_features_destroy(features);
    }
    free(x), free(acts), free(expected), free(dense), free(out);
}

/** More rows than go through at once, and none at all. */
static void takes_any_number_of_rows(const cusae_sae *sae, const char *folder) {
    enum { TIMES = 70 };
    float *x = read_tensor(path_of(folder, "io.safetensors"), "x", ROWS * D_IN);
    float *many = floats(TIMES * ROWS * D_IN), *out = floats(TIMES * ROWS * D_IN);
    cusae_features *features;
    size_t i;
    for (i = 0; i < TIMES; i++) memcpy(many + i * ROWS * D_IN, x, sizeof(float) * ROWS * D_IN);
    OK(cusae_reconstruct(sae, many, TIMES * ROWS, CUSAE_HOST, out));
    for (i = 1; i < TIMES; i++) CHECK(memcmp(out, out + i * ROWS * D_IN, sizeof(float) * ROWS * D_IN) == 0);
    OK(cusae_encode(sae, many, TIMES * ROWS, CUSAE_HOST, &features));
    CHECK(features->rows == TIMES * ROWS && features->entries % TIMES == 0);
    OK(cusae_decode(sae, features, CUSAE_HOST, many));
    CHECK(largest_difference(out, many, TIMES * ROWS * D_IN) <= 1e-6);
    cusae_features_destroy(features);
    OK(cusae_encode(sae, NULL, 0, CUSAE_HOST, &features));
    CHECK(features->rows == 0 && features->entries == 0 && features->indptr[0] == 0);
    OK(cusae_decode(sae, features, CUSAE_HOST, NULL));
    cusae_features_destroy(features);
    free(x), free(many), free(out);
}

/** A feature that the caller makes up decodes to its row of W_dec and b_dec. */
static void decodes_features_of_the_caller(const cusae_sae *sae) {
    size_t indptr[2] = {0, 1}, i;
    uint32_t latent = 7;
    float value = 2.5f, w_dec[D_SAE * D_IN], b_dec[D_IN], out[D_IN];
    cusae_features features = {1, 1, NULL, NULL, NULL, NULL, NULL};
    features.indptr = indptr, features.indices = &latent, features.values = &value;
    OK(cusae_sae_weight(sae, "W_dec", w_dec, D_SAE * D_IN));
    OK(cusae_sae_weight(sae, "b_dec", b_dec, D_IN));
    OK(cusae_decode(sae, &features, CUSAE_HOST, out));
    for (i = 0; i < D_IN; i++) CHECK(fabs(out[i] - (value * w_dec[7 * D_IN + i] + b_dec[i])) < 1e-5);
}

struct job {
    const cusae_sae *sae;
    const float *x, *expected;
};

static void *reconstructs(void *argument) {
    const struct job *job = (const struct job *)argument;
    float out[ROWS * D_IN];
    int i;
    for (i = 0; i < 20; i++) {
        OK(cusae_reconstruct(job->sae, job->x, ROWS, CUSAE_HOST, out));
        CHECK(memcmp(out, job->expected, sizeof out) == 0);
    }
    CHECK(strcmp(cusae_error_text(), "") == 0); /* other threads' errors are theirs */
    return NULL;
}

static void is_shared_by_threads(const cusae_sae *sae, const char *folder) {
    pthread_t threads[3];
    float *x = read_tensor(path_of(folder, "io.safetensors"), "x", ROWS * D_IN), *expected = floats(ROWS * D_IN);
    struct job job;
    int i;
    job.sae = sae, job.x = x, job.expected = expected;
    OK(cusae_reconstruct(sae, x, ROWS, CUSAE_HOST, expected));
    FAILS(CUSAE_ERROR_ARGUMENT, "x is a null pointer", cusae_reconstruct(sae, NULL, ROWS, CUSAE_HOST, expected));
    for (i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, reconstructs, &job) == 0);
    for (i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    free(x), free(expected);
}

/* ---- Training -------------------------------------------------------------------------------- */

enum { WIDTH = 16, LATENTS = 48, BATCH = 64, STEPS = 60 };

static const char *const RECIPE = "architecture = \"topk\"\nk = 3\ntrain_batch_size_tokens = 64\n"
                                  "training_tokens = 3840\nlr = 0.01\nlr_warm_up_steps = 0\nlr_decay_steps = 0\n";

/** Sums of three of 24 directions, as an SAE supposes activations to be. */
static void draw(float *x, uint64_t seed) {
    static float directions[24][WIDTH];
    uint64_t state = 1;
    size_t row, i, d;
    for (i = 0; i < 24; i++)
        for (d = 0; d < WIDTH; d++) directions[i][d] = uniform(&state);
    state = seed;
    memset(x, 0, sizeof(float) * BATCH * WIDTH);
    for (row = 0; row < BATCH; row++)
        for (i = 0; i < 3; i++) {
            size_t which = (size_t)((uniform(&state) + 1) * 12) % 24;
            for (d = 0; d < WIDTH; d++) x[row * WIDTH + d] += directions[which][d];
        }
}

/** Trains by the recipe; the losses of all steps. */
static cusae_trainer *train(enum cusae_memory memory, double losses[STEPS]) {
    cusae_trainer *trainer;
    cusae_report report;
    float *x = floats(BATCH * WIDTH);
    int step;
    OK(cusae_trainer_create(engine, WIDTH, LATENTS, RECIPE, &trainer));
    CHECK(cusae_trainer_rows(trainer) == BATCH);
    for (step = 0; step < STEPS; step++) {
        draw(x, 100 + (uint64_t)step);
        OK(cusae_train_step(trainer, x, BATCH, memory));
        OK(cusae_trainer_report(trainer, &report)); /* waits, so that x may be used again */
        losses[step] = report.overall_loss;
    }
    CHECK(report.step == STEPS && report.l0 == 3 && report.grad_norm > 0 && report.n_dead == 0);
    CHECK(report.n_losses == 2 && strcmp(report.losses[0].name, "mse_loss") == 0);
    CHECK(strcmp(report.losses[1].name, "auxiliary_reconstruction_loss") == 0);
    CHECK(report.overall_loss == report.losses[0].value + report.losses[1].value);
    CHECK(report.explained_variance > 0.5 && report.explained_variance < 1);
    free(x);
    return trainer;
}

static void trains_saves_and_loads_again(const char *out) {
    double losses[STEPS], again[STEPS];
    cusae_trainer *trainer = train(CUSAE_HOST, losses), *other = train(CUSAE_DEVICE, again);
    cusae_sae *sae, *loaded;
    cusae_sizes sizes;
    float x[BATCH * WIDTH], of_trainer[BATCH * WIDTH], of_folder[BATCH * WIDTH];
    CHECK(losses[STEPS - 1] < 0.3 * losses[0]);
    CHECK(memcmp(losses, again, sizeof losses) == 0);
    cusae_trainer_destroy(other);
    OK(cusae_trainer_sizes(trainer, &sizes));
    CHECK(sizes.d_in == WIDTH && sizes.d_out == WIDTH && sizes.d_sae == LATENTS);
    CHECK(strstr(cusae_trainer_recipe(trainer), "d_sae = 48\n") != NULL);
    draw(x, 99);
    FAILS(CUSAE_ERROR_CONFIG, "training_tokens: 3840, which are 60 steps of 64, are done",
          cusae_train_step(trainer, x, BATCH, CUSAE_HOST));

    OK(cusae_trainer_sae(trainer, &sae));
    OK(cusae_trainer_save(trainer, path_of(out, "trained")));
    cusae_trainer_destroy(trainer);
    OK(cusae_reconstruct(sae, x, BATCH, CUSAE_HOST, of_trainer));
    OK(cusae_sae_load(engine, path_of(out, "trained"), &loaded));
    OK(cusae_reconstruct(loaded, x, BATCH, CUSAE_HOST, of_folder));
    CHECK(largest_difference(of_trainer, of_folder, BATCH * WIDTH) < 1e-5); /* decoder norms are folded */
    cusae_sae_destroy(loaded);
    free(read_tensor(path_of(path_of(out, "trained"), "sparsity.safetensors"), "sparsity", LATENTS));

    OK(cusae_sae_save(sae, path_of(out, "copied")));
    OK(cusae_sae_load(engine, path_of(out, "copied"), &loaded));
    OK(cusae_reconstruct(loaded, x, BATCH, CUSAE_HOST, of_folder));
    CHECK(largest_difference(of_trainer, of_folder, BATCH * WIDTH) < 1e-5);
    cusae_sae_destroy(loaded);
    cusae_sae_destroy(sae);
}

/** A run goes on from saved weights, and without a recipe there is the default one. */
static void starts_from_weights_and_from_sizes(const char *out) {
    char recipe[5000];
    cusae_trainer *trainer;
    cusae_sizes sizes;
    cusae_report report;
    double losses[STEPS], first;
    float x[BATCH * WIDTH];
    cusae_trainer_destroy(train(CUSAE_HOST, losses));
    snprintf(recipe, sizeof recipe, "%sfrom_pretrained_path = \"%s\"\n", RECIPE, path_of(out, "trained"));
    OK(cusae_trainer_create(engine, WIDTH, LATENTS, recipe, &trainer));
    draw(x, 100);
    OK(cusae_train_step(trainer, x, BATCH, CUSAE_HOST));
    OK(cusae_trainer_report(trainer, &report));
    first = report.overall_loss;
    CHECK(first < 0.5 * losses[0]);
    cusae_trainer_destroy(trainer);

    OK(cusae_trainer_create(engine, 8, 0, NULL, &trainer));
    OK(cusae_trainer_sizes(trainer, &sizes));
    CHECK(sizes.d_in == 8 && sizes.d_sae == 128 && cusae_trainer_rows(trainer) == 2048);
    cusae_trainer_destroy(trainer);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int normalizes, has_skip;
    } saes[] = {
        {"topk-none-bdec-rescale", 0, 0},
        {"standard-layer_norm-bdec", 1, 0},
        {"jumprelu-constant_norm_rescale-nobdec", 1, 0},
        {"gated-fold-after", 0, 0},
        {"skip_transcoder-layer_norm", 0, 1},
    };
    cusae_sae *sae;
    size_t i;
    CHECK(argc == 4);
    OK(cusae_engine_create(argv[1], &engine));
    CHECK(strlen(cusae_version()) >= 5 && strlen(cusae_engine_describe(engine)) > 0);
    for (i = 0; i < sizeof saes / sizeof *saes; i++) {
        char folder[2048];
        snprintf(folder, sizeof folder, "%s/%s", argv[2], saes[i].name);
        OK(cusae_sae_load(engine, folder, &sae));
        computes_what_saelens_computes(sae, folder, saes[i].normalizes, saes[i].has_skip);
        if (i == 0) {
            describes_itself(sae, folder);
            takes_any_number_of_rows(sae, folder);
            is_shared_by_threads(sae, folder);
        } else if (strcmp(saes[i].name, "gated-fold-after") == 0) {
            decodes_features_of_the_caller(sae);
        }
        cusae_sae_destroy(sae);
    }
    trains_saves_and_loads_again(argv[3]);
    starts_from_weights_and_from_sizes(argv[3]);
    OK(cusae_engine_synchronize(engine));
    cusae_engine_destroy(engine);
    return 0;
}
