/* Prints how a compiler lays out the structs of cusae.h, and the values of its enums: "name value" lines. */
#include "cusae.h"
#include <stdio.h>

#define SIZE(type) printf(#type " %zu\n", sizeof(type))
#define FIELD(type, field) printf(#type "." #field " %zu\n", offsetof(type, field))
#define VALUE(name) printf(#name " %d\n", (int)name)

int main(void) {
    SIZE(cusae_sizes);
    FIELD(cusae_sizes, d_in);
    FIELD(cusae_sizes, d_out);
    FIELD(cusae_sizes, d_sae);
    SIZE(cusae_features);
    FIELD(cusae_features, rows);
    FIELD(cusae_features, entries);
    FIELD(cusae_features, indptr);
    FIELD(cusae_features, indices);
    FIELD(cusae_features, values);
    FIELD(cusae_features, row_scale);
    FIELD(cusae_features, row_shift);
    SIZE(cusae_loss);
    FIELD(cusae_loss, name);
    FIELD(cusae_loss, value);
    SIZE(cusae_report);
    FIELD(cusae_report, step);
    FIELD(cusae_report, overall_loss);
    FIELD(cusae_report, l0);
    FIELD(cusae_report, explained_variance);
    FIELD(cusae_report, grad_norm);
    FIELD(cusae_report, n_dead);
    FIELD(cusae_report, losses);
    FIELD(cusae_report, n_losses);
    SIZE(enum cusae_memory);
    VALUE(CUSAE_OK);
    VALUE(CUSAE_ERROR_ARGUMENT);
    VALUE(CUSAE_ERROR_CONFIG);
    VALUE(CUSAE_ERROR_IO);
    VALUE(CUSAE_ERROR_FORMAT);
    VALUE(CUSAE_ERROR_SHAPE);
    VALUE(CUSAE_ERROR_DEVICE);
    VALUE(CUSAE_ERROR_KERNEL);
    VALUE(CUSAE_ERROR_NON_FINITE);
    VALUE(CUSAE_ERROR_INTERNAL);
    return 0;
}
