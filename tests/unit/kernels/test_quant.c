/* Block formats against gguf-py (tests/fixtures/quants): every value equal bit for bit. */
#include "kernels/quant.h"

#include <math.h>

#include "kernels/cpu/cpu_pack.h"
#include "tests/test.h"

#define ROWS 4
#define COLS 512

static uint8_t *read_fixture(const char *name, size_t *size)
{
    char relative[256];
    snprintf(relative, sizeof relative, "fixtures/quants/%s", name);
    FILE *f = fopen(test_data(relative), "rb");
    NEED(f);
    NEED(fseek(f, 0, SEEK_END) == 0);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *data = malloc(*size);
    NEED(data && fread(data, 1, *size, f) == *size);
    fclose(f);
    return data;
}

/* ---- just enough GGUF to find a tensor in a file that we trust ---- */

struct cursor {
    const uint8_t *p, *end;
};

static uint64_t take(struct cursor *c, size_t bytes)
{
    uint64_t v = 0;
    NEED((size_t)(c->end - c->p) >= bytes);
    memcpy(&v, c->p, bytes);
    c->p += bytes;
    return v;
}

static const char *take_string(struct cursor *c, size_t *len)
{
    *len = take(c, 8);
    NEED((size_t)(c->end - c->p) >= *len);
    const char *text = (const char *)c->p;
    c->p += *len;
    return text;
}

static void skip_value(struct cursor *c, uint32_t type)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    size_t len;

    NEED(type < sizeof bytes);
    if (type == 8) {
        take_string(c, &len);
    } else if (type == 9) {
        uint32_t element = (uint32_t)take(c, 4);
        for (uint64_t n = take(c, 8); n > 0; n--)
            skip_value(c, element);
    } else {
        take(c, bytes[type]);
    }
}

/* The data of the first tensor of a GGUF type, or NULL. */
static const uint8_t *find_tensor(const uint8_t *file, size_t size, uint32_t gguf_type)
{
    struct cursor c = {file, file + size};
    uint64_t offset = UINT64_MAX;
    size_t len;

    NEED(take(&c, 4) == 0x46554747);
    NEED(take(&c, 4) == 3);
    uint64_t tensors = take(&c, 8), pairs = take(&c, 8);
    for (; pairs > 0; pairs--) {
        take_string(&c, &len);
        skip_value(&c, (uint32_t)take(&c, 4));
    }
    for (; tensors > 0; tensors--) {
        take_string(&c, &len);
        uint32_t dims = (uint32_t)take(&c, 4);
        NEED(dims == 2 && take(&c, 8) == COLS && take(&c, 8) == ROWS);
        uint32_t type = (uint32_t)take(&c, 4);
        uint64_t at = take(&c, 8);
        if (type == gguf_type && offset == UINT64_MAX) offset = at;
    }
    if (offset == UINT64_MAX) return NULL;
    size_t data = ((size_t)(c.p - file) + 31) / 32 * 32;
    NEED(data + offset < size);
    return file + data + offset;
}

/* ---- tests ---- */

static const struct {
    enum dtype type;
    uint32_t gguf;
} formats[] = {
    {DTYPE_F32, 0},  {DTYPE_F16, 1},  {DTYPE_BF16, 30}, {DTYPE_Q8_0, 8},
    {DTYPE_Q4_0, 2}, {DTYPE_Q4_1, 3}, {DTYPE_Q4_K, 12}, {DTYPE_Q6_K, 14},
};

static void test_fixtures(void)
{
    size_t file_size, want_size;
    uint8_t *file = read_fixture("blocks.gguf", &file_size);

    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        enum dtype type = formats[i].type;
        char name[32];
        snprintf(name, sizeof name, "%s.f32", dtype_name(type));
        uint8_t *want = read_fixture(name, &want_size);
        const uint8_t *blocks = find_tensor(file, file_size, formats[i].gguf);
        static float got[ROWS][COLS], unpacked[COLS];

        NEED(blocks && want_size == sizeof got);
        size_t row_bytes = matrix_row_bytes(type, COLS);
        for (int r = 0; r < ROWS; r++)
            quant_dequantize_row(type, blocks + (size_t)r * row_bytes, got[r], COLS);
        if (memcmp(got, want, sizeof got) != 0) printf("format %s differs\n", dtype_name(type));
        EXPECT(memcmp(got, want, sizeof got) == 0);

        /* Repacked and read back: nothing may be lost. */
        struct matrix m = {type, ROWS, COLS, blocks};
        uint8_t *panels = aligned_alloc(64, cpu_pack_bytes(type, ROWS, COLS));
        struct cpu_packed packed;
        cpu_pack_init(&packed, &m, type, panels);
        cpu_pack_panels(&packed, &m, 0, packed.panels);
        for (int r = 0; r < ROWS; r++) {
            cpu_pack_read_row(&packed, r, unpacked);
            EXPECT(memcmp(unpacked, got[r], sizeof unpacked) == 0);
        }
        free(panels);
        free(want);
    }
    free(file);
}

static void test_type_table(void)
{
    enum dtype type;

    EXPECT(dtype_from_gguf(3, &type) && type == DTYPE_Q4_1);
    EXPECT(dtype_from_gguf(30, &type) && type == DTYPE_BF16);
    EXPECT(!dtype_from_gguf(10, &type));
    EXPECT(!dtype_from_gguf(4000000000u, &type));
    EXPECT_STR(dtype_gguf_name(10), "Q2_K");
    EXPECT(dtype_gguf_name(4) == NULL);
    EXPECT(dtype_gguf_name(40000) == NULL);
    EXPECT_STR(dtype_name(DTYPE_Q6_K), "Q6_K");
    EXPECT_INT(matrix_row_bytes(DTYPE_Q4_K, 512), 288);
    struct matrix m = {DTYPE_Q8_0, 3, 64, NULL};
    EXPECT_INT(matrix_bytes(&m), 3 * 68);
}

/* Every half there is goes to float and back; every float between two neighbours goes to the nearer
 * one, and the middle to the even one. */
static void test_halves(void)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = quant_half_to_float((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            EXPECT(isnan(f) && isnan(quant_half_to_float(quant_float_to_half(f))));
            continue;
        }
        if (quant_float_to_half(f) != h) printf("half %04x does not come back\n", h);
        EXPECT_INT(quant_float_to_half(f), h);
        if ((h & 0x7fff) >= 0x7bff) continue;
        float next = quant_half_to_float((uint16_t)(h + 1));
        float middle = (f + next) / 2; // exact: one more bit
        EXPECT_INT(quant_float_to_half(middle), h & 1 ? h + 1 : h);
        EXPECT_INT(quant_float_to_half(nextafterf(middle, f)), h);
        EXPECT_INT(quant_float_to_half(nextafterf(middle, next)), h + 1);
    }
    EXPECT_INT(quant_float_to_half(65519.0f), 0x7bff);
    EXPECT_INT(quant_float_to_half(65520.0f), 0x7c00);
    EXPECT_INT(quant_float_to_half(1e30f), 0x7c00);
    EXPECT_INT(quant_float_to_half(-INFINITY), 0xfc00);
    EXPECT_INT(quant_float_to_half(1e-20f), 0);
}

static void test_bfloats(void)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = quant_bf16_to_float((uint16_t)h);
        if (isnan(f))
            EXPECT(isnan(quant_bf16_to_float(quant_float_to_bf16(f))));
        else
            EXPECT_INT(quant_float_to_bf16(f), h);
    }
    EXPECT_INT(quant_float_to_bf16(0x1.01p0f), 0x3f80); // half way, to even
    EXPECT_INT(quant_float_to_bf16(0x1.03p0f), 0x3f82);
    EXPECT_INT(quant_float_to_bf16(0x1.010002p0f), 0x3f81);
    EXPECT_INT(quant_float_to_bf16(3.4e38f), 0x7f80);
}

int main(void)
{
    RUN(test_fixtures);
    RUN(test_type_table);
    RUN(test_halves);
    RUN(test_bfloats);
    return TEST_END();
}
