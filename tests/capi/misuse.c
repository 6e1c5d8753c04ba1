/* Every way to use cusae.h wrongly that can be noticed: each is a status and a sentence, never a crash.
 *
 * misuse DATA OUT: tests/data/saes, an empty folder. */
#include "check.h"
#include <math.h>

static cusae_engine *engine;

static void null_pointers(cusae_sae *sae, cusae_trainer *trainer) {
    cusae_features features = {0, 0, NULL, NULL, NULL, NULL, NULL}, *made;
    size_t shape[2];
    float x[16];
    cusae_sizes sizes;
    cusae_report report;
    cusae_sae *other;
    cusae_trainer *other_trainer;
    const int argument = CUSAE_ERROR_ARGUMENT;
    FAILS(argument, "device is a null pointer", cusae_engine_create(NULL, &engine));
    FAILS(argument, "out is a null pointer", cusae_engine_create("cpu", NULL));
    FAILS(argument, "engine is a null pointer", cusae_engine_synchronize(NULL));
    FAILS(argument, "engine is a null pointer", cusae_sae_load(NULL, "x", &other));
    FAILS(argument, "name is a null pointer", cusae_sae_load(engine, NULL, &other));
    FAILS(argument, "sae is a null pointer", cusae_sae_sizes(NULL, &sizes));
    FAILS(argument, "out is a null pointer", cusae_sae_sizes(sae, NULL));
    FAILS(argument, "sae is a null pointer", cusae_sae_weight_shape(NULL, "W_dec", shape));
    FAILS(argument, "shape is a null pointer", cusae_sae_weight_shape(sae, "W_dec", NULL));
    FAILS(argument, "out is a null pointer", cusae_sae_weight(sae, "W_dec", NULL, 1 << 20));
    FAILS(argument, "sae is a null pointer", cusae_encode(NULL, x, 1, CUSAE_HOST, &made));
    FAILS(argument, "x is a null pointer", cusae_encode(sae, NULL, 1, CUSAE_HOST, &made));
    FAILS(argument, "out is a null pointer", cusae_encode(sae, x, 1, CUSAE_HOST, NULL));
    FAILS(argument, "out is a null pointer", cusae_encode_dense(sae, x, 1, CUSAE_HOST, NULL));
    FAILS(argument, "features is a null pointer", cusae_decode(sae, NULL, CUSAE_HOST, x));
    FAILS(argument, "indptr is a null pointer", cusae_decode(sae, &features, CUSAE_HOST, x));
    FAILS(argument, "out is a null pointer", cusae_reconstruct(sae, x, 1, CUSAE_HOST, NULL));
    FAILS(argument, "folder is a null pointer", cusae_sae_save(sae, NULL));
    FAILS(argument, "engine is a null pointer", cusae_trainer_create(NULL, 4, 8, NULL, &other_trainer));
    FAILS(argument, "trainer is a null pointer", cusae_trainer_sizes(NULL, &sizes));
    FAILS(argument, "trainer is a null pointer", cusae_trainer_set_input_scale(NULL, 1));
    FAILS(argument, "x is a null pointer", cusae_train_step(trainer, NULL, 4, CUSAE_HOST));
    FAILS(argument, "trainer is a null pointer", cusae_trainer_report(NULL, &report));
    FAILS(argument, "trainer is a null pointer", cusae_trainer_sae(NULL, &other));
    FAILS(argument, "trainer is a null pointer", cusae_trainer_save(NULL, "x"));
    CHECK(cusae_engine_describe(NULL) == NULL && cusae_sae_config(NULL) == NULL);
    CHECK(cusae_sae_weight_name(NULL, 0) == NULL && cusae_trainer_recipe(NULL) == NULL);
    CHECK(cusae_trainer_rows(NULL) == 0);
    cusae_engine_destroy(NULL);
    cusae_sae_destroy(NULL);
    cusae_features_destroy(NULL);
    cusae_trainer_destroy(NULL);
}

static void devices_and_files(const char *data, const char *out) {
    cusae_engine *none = NULL;
    cusae_sae *sae = NULL;
    FAILS(CUSAE_ERROR_DEVICE, "there is no such device; use auto, cpu", cusae_engine_create("tpu", &none));
    FAILS(CUSAE_ERROR_ARGUMENT, "device is not UTF-8", cusae_engine_create("\xff", &none));
    CHECK(none == NULL);
    FAILS(CUSAE_ERROR_IO, "no-such-folder", cusae_sae_load(engine, path_of(out, "no-such-folder"), &sae));
    FAILS(CUSAE_ERROR_FORMAT, "no SAE of a known layout", cusae_sae_load(engine, out, &sae));
    FAILS(CUSAE_ERROR_FORMAT, "README.md", cusae_sae_load(engine, path_of(data, "README.md"), &sae));
    CHECK(sae == NULL);
}

static void sizes_and_settings(cusae_sae *sae) {
    size_t shape[2], indptr[3] = {0, 1, 2};
    uint32_t latents[2] = {3, 256};
    float numbers[2] = {1, 1}, x[64] = {0}, out[64 * 2];
    char bytes[65 * sizeof(float)];
    cusae_features features = {2, 2, NULL, NULL, NULL, NULL, NULL}, *made = NULL;
    cusae_trainer *trainer = NULL;
    FAILS(CUSAE_ERROR_ARGUMENT, "no weight \"W_up\"; there are W_dec, W_enc",
          cusae_sae_weight_shape(sae, "W_up", shape));
    FAILS(CUSAE_ERROR_ARGUMENT, "W_dec is 256 x 64 = 16384 numbers, there is room for 64",
          cusae_sae_weight(sae, "W_dec", x, 64));
    FAILS(CUSAE_ERROR_ARGUMENT, "memory is 7", cusae_encode(sae, x, 1, (enum cusae_memory)7, &made));
    FAILS(CUSAE_ERROR_ARGUMENT, "x is not aligned to 4 bytes",
          cusae_encode(sae, (const float *)(void *)(bytes + 1 + (size_t)-(uintptr_t)bytes % 4), 1, CUSAE_HOST, &made));
    CHECK(made == NULL);
    features.indptr = indptr, features.indices = latents, features.values = numbers;
    FAILS(CUSAE_ERROR_ARGUMENT, "row_scale, which this SAE needs, is a null pointer",
          cusae_decode(sae, &features, CUSAE_HOST, out));
    features.row_scale = features.row_shift = numbers;
    FAILS(CUSAE_ERROR_SHAPE, "feature 256 is not below d_sae = 256", cusae_decode(sae, &features, CUSAE_HOST, out));
    indptr[1] = 3;
    FAILS(CUSAE_ERROR_ARGUMENT, "indptr does not rise from 0", cusae_decode(sae, &features, CUSAE_HOST, out));

    FAILS(CUSAE_ERROR_CONFIG, "d_in", cusae_trainer_create(engine, 0, 8, NULL, &trainer));
    FAILS(CUSAE_ERROR_CONFIG, "did you mean lr?", cusae_trainer_create(engine, 4, 8, "lrr = 1", &trainer));
    FAILS(CUSAE_ERROR_CONFIG, "the recipe says 9, the call 8",
          cusae_trainer_create(engine, 4, 8, "d_sae = 9", &trainer));
    FAILS(CUSAE_ERROR_CONFIG, "k: found 99", cusae_trainer_create(engine, 4, 8, "k = 99", &trainer));
    FAILS(CUSAE_ERROR_CONFIG, "not TOML", cusae_trainer_create(engine, 4, 8, "= 1", &trainer));
    FAILS(CUSAE_ERROR_IO, "nowhere",
          cusae_trainer_create(engine, 4, 8, "k = 2\nfrom_pretrained_path = \"nowhere\"", &trainer));
    CHECK(trainer == NULL);
}

static void training(cusae_trainer *trainer) {
    float x[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    cusae_report report;
    FAILS(CUSAE_ERROR_ARGUMENT, "no step was done yet", cusae_trainer_report(trainer, &report));
    FAILS(CUSAE_ERROR_ARGUMENT, "a batch of 3 rows, expected train_batch_size_tokens = 4",
          cusae_train_step(trainer, x, 3, CUSAE_HOST));
    FAILS(CUSAE_ERROR_ARGUMENT, "factor 0", cusae_trainer_set_input_scale(trainer, 0));
    OK(cusae_trainer_set_input_scale(trainer, 0.5f));
    OK(cusae_train_step(trainer, x, 4, CUSAE_HOST));
    FAILS(CUSAE_ERROR_ARGUMENT, "after 1 steps", cusae_trainer_set_input_scale(trainer, 0.5f));
    x[5] = (float)INFINITY;
    OK(cusae_train_step(trainer, x, 4, CUSAE_HOST));
    FAILS(CUSAE_ERROR_NON_FINITE, "step 2: the loss is not finite", cusae_trainer_report(trainer, &report));
}

int main(int argc, char **argv) {
    static const char *const recipe = "k = 2\ntrain_batch_size_tokens = 4\ntraining_tokens = 400\n"
                                      "normalize_activations = \"expected_average_only_in\"\n";
    cusae_sae *sae;
    cusae_trainer *trainer, *other;
    CHECK(argc == 3);
    CHECK(strcmp(cusae_error_text(), "") == 0);
    OK(cusae_engine_create("cpu", &engine));
    OK(cusae_sae_load(engine, path_of(argv[1], "standard-layer_norm-bdec"), &sae));
    OK(cusae_trainer_create(engine, 4, 8, recipe, &trainer));
    null_pointers(sae, trainer);
    devices_and_files(argv[1], argv[2]);
    sizes_and_settings(sae);
    training(trainer);
    OK(cusae_trainer_create(engine, 4, 8, "k = 2", &other));
    FAILS(CUSAE_ERROR_CONFIG, "found none, expected expected_average_only_in",
          cusae_trainer_set_input_scale(other, 0.5f));
    cusae_engine_destroy(engine); /* before what was made with it */
    cusae_trainer_destroy(other);
    cusae_trainer_destroy(trainer);
    cusae_sae_destroy(sae);
    return 0;
}
