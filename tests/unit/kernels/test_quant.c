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

/* Every tensor of the file, COLS x ROWS all of them: fn(type, its blocks). Returns how many. */
static int walk_tensors(const uint8_t *file, size_t size,
                        void (*fn)(enum dtype type, const uint8_t *blocks))
{
    struct cursor c = {file, file + size};
    struct {
        enum dtype type;
        uint64_t offset;
    } found[DTYPE_COUNT];
    size_t len;

    NEED(take(&c, 4) == 0x46554747);
    NEED(take(&c, 4) == 3);
    uint64_t tensors = take(&c, 8), pairs = take(&c, 8);
    NEED(tensors <= DTYPE_COUNT);
    for (; pairs > 0; pairs--) {
        take_string(&c, &len);
        skip_value(&c, (uint32_t)take(&c, 4));
    }
    for (uint64_t i = 0; i < tensors; i++) {
        take_string(&c, &len);
        uint32_t dims = (uint32_t)take(&c, 4);
        NEED(dims == 2 && take(&c, 8) == COLS && take(&c, 8) == ROWS);
        NEED(dtype_from_gguf((uint32_t)take(&c, 4), &found[i].type));
        found[i].offset = take(&c, 8);
    }
    size_t data = ((size_t)(c.p - file) + 31) / 32 * 32;
    for (uint64_t i = 0; i < tensors; i++) {
        struct matrix m = {.type = found[i].type, .rows = ROWS, .cols = COLS};
        NEED(data + found[i].offset + matrix_bytes(&m) <= size);
        fn(found[i].type, file + data + found[i].offset);
    }
    return (int)tensors;
}

/* ---- tests ---- */

static void dequantize(enum dtype type, const uint8_t *blocks, float values[ROWS][COLS])
{
    for (int r = 0; r < ROWS; r++)
        quant_dequantize_row(type, blocks + (size_t)r * matrix_row_bytes(type, COLS), values[r],
                             COLS);
}

static void check_values(enum dtype type, const uint8_t *blocks)
{
    static float got[ROWS][COLS];
    char name[32];
    size_t size;

    snprintf(name, sizeof name, "%s.f32", dtype_name(type));
    uint8_t *want = read_fixture(name, &size);
    NEED(size == sizeof got);
    dequantize(type, blocks, got);
    if (memcmp(got, want, sizeof got) != 0) printf("format %s differs\n", dtype_name(type));
    EXPECT(memcmp(got, want, sizeof got) == 0);
    free(want);
}

/* Repacked and read back: nothing may be lost. */
static void check_packing(enum dtype type, const uint8_t *blocks)
{
    static float want[ROWS][COLS], got[COLS];
    struct matrix m = {.type = type, .rows = ROWS, .cols = COLS, .data = blocks};
    uint8_t *panels = aligned_alloc(64, cpu_pack_bytes(type, ROWS, COLS));
    struct cpu_packed packed;

    dequantize(type, blocks, want);
    cpu_pack_init(&packed, &m, type, panels);
    EXPECT(cpu_pack_panels(&packed, &m, 0, packed.panels));
    for (int r = 0; r < ROWS; r++) {
        cpu_pack_read_row(&packed, r, got);
        if (memcmp(got, want[r], sizeof got) != 0)
            printf("row %d of %s changed when packed\n", r, dtype_name(type));
        EXPECT(memcmp(got, want[r], sizeof got) == 0);
    }
    free(panels);
}

/* Rounded to a narrower type of floats: to nearest even, and what is too large is said. */
static void test_rounded_packing(void)
{
    static const float source[2][4] = {{1, 65504, 1e-9f, -3.14159274f}, {0, 65520, 2, 3}};
    static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16};
    for (int i = 0; i < 2; i++) {
        enum dtype type = types[i];
        struct matrix m = {.type = DTYPE_F32, .rows = 2, .cols = 4, .data = source};
        uint8_t *panels = aligned_alloc(64, cpu_pack_bytes(type, 2, 4));
        struct cpu_packed packed;
        float got[4];
        cpu_pack_init(&packed, &m, type, panels);
        EXPECT(cpu_pack_panels(&packed, &m, 0, 1) == (type == DTYPE_BF16)); // 65520 rounds up
        for (int r = 0; r < 2; r++) {
            cpu_pack_read_row(&packed, r, got);
            for (int k = 0; k < 4; k++)
                EXPECT(got[k] == (type == DTYPE_F16
                                      ? quant_half_to_float(quant_float_to_half(source[r][k]))
                                      : quant_bf16_to_float(quant_float_to_bf16(source[r][k]))));
        }
        m.rows = 1;
        cpu_pack_init(&packed, &m, type, panels);
        EXPECT(cpu_pack_panels(&packed, &m, 0, 1));
        free(panels);
    }
}

static void test_fixtures(void)
{
    size_t size;
    uint8_t *file = read_fixture("blocks.gguf", &size);

    EXPECT_INT(walk_tensors(file, size, check_values), DTYPE_COUNT - 1); // each type of GGUF once
    walk_tensors(file, size, check_packing);
    free(file);
}

static void test_type_table(void)
{
    enum dtype type;

    EXPECT(dtype_from_gguf(3, &type) && type == DTYPE_Q4_1);
    EXPECT(dtype_from_gguf(30, &type) && type == DTYPE_BF16);
    EXPECT(!dtype_from_gguf(9, &type)); // Q8_1: never in files
    EXPECT(!dtype_from_gguf(4000000000u, &type));
    EXPECT(!dtype_from_gguf(UINT32_MAX, &type)); // nor a type that GGUF doesn't have
    EXPECT_STR(dtype_gguf_name(9), "Q8_1");
    EXPECT(dtype_gguf_name(4) == NULL);
    EXPECT(dtype_gguf_name(40000) == NULL);
    EXPECT_STR(dtype_name(DTYPE_Q6_K), "Q6_K");
    EXPECT_INT(matrix_row_bytes(DTYPE_Q4_K, 512), 288);
    struct matrix m = {.type = DTYPE_Q8_0, .rows = 3, .cols = 64};
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

/* E4M3 by its definition, and under the scales of a grid that a part of a matrix begins in the middle of. */
static void test_f8(void)
{
    enum { ALL = 256, GRID_ROW = 1, GRID_COL = 20, BLOCK_ROWS = 2, BLOCK_COLS = 48, ACROSS = 6 };
    static const float scale[2][ACROSS] = {{1, 2, 0.3f, -4, 5, 6}, {7e-5f, 8, 9, 0, 11, 12}};
    const struct scale_grid grid = {scale[0], ACROSS, BLOCK_ROWS, BLOCK_COLS};
    uint8_t bytes[2 * ALL];
    float want[ALL], got[ALL];

    for (int i = 0; i < ALL; i++) {
        int exponent = i >> 3 & 15, mantissa = i & 7;
        float size =
            exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
        want[i] = i & 0x80 ? -size : size;
        bytes[i] = bytes[ALL + i] = (uint8_t)i;
    }
    quant_dequantize_row(DTYPE_F8_E4M3, bytes, got, ALL);
    for (int i = 0; i < ALL; i++)
        EXPECT((i & 0x7f) == 0x7f ? isnan(got[i]) : got[i] == want[i]);
    struct matrix m = {.type = DTYPE_F8_E4M3,
                       .rows = 2,
                       .cols = ALL,
                       .data = bytes,
                       .grid = &grid,
                       .grid_row = GRID_ROW,
                       .grid_col = GRID_COL};
    for (int row = 0; row < 2; row++) {
        quant_dequantize_matrix_row(&m, row, got);
        for (int i = 0; i < ALL; i++) {
            float s = scale[(GRID_ROW + row) / BLOCK_ROWS][(GRID_COL + i) / BLOCK_COLS];
            EXPECT((i & 0x7f) == 0x7f ? isnan(got[i]) : got[i] == want[i] * s);
        }
    }
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
    RUN(test_rounded_packing);
    RUN(test_type_table);
    RUN(test_halves);
    RUN(test_bfloats);
    RUN(test_f8);
    return TEST_END();
}
