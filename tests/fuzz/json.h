/* json.h - targets: json (check, tokens, walks, text), json_path (azo_json_get), number (reading and printing). */
#ifndef AZO_TEST_FUZZ_JSON_H
#define AZO_TEST_FUZZ_JSON_H

/* Reads a string value into a block of exactly the size that the first call asks for. NULL: it is no string. */
static char *fuzz_json_text(azo_str value, size_t *len) {
    char small[1];
    azo_result r = azo_json_text(value, small, 0, len);
    FUZZ_CHECK(r == AZO_ERR_LIMIT || r == AZO_ERR_JSON);
    if (r == AZO_ERR_JSON) {
        return NULL;
    }
    char *text = (char *)malloc(*len + 1);
    if (*len > 0) {
        size_t again = 0;
        FUZZ_CHECK(azo_json_text(value, text, *len, &again) == AZO_ERR_LIMIT && again == *len);
    }
    FUZZ_CHECK(azo_json_text(value, text, *len + 1, len) == AZO_OK && text[*len] == '\0');
    FUZZ_CHECK(ref_is_utf8(fuzz_view(text, *len)));
    return text;
}

/* What is quoted is a JSON string; read again and quoted again it is the same. */
static void fuzz_json_quote(azo_str text) {
    size_t len = 0;
    size_t back_len = 0;
    size_t twice_len = 0;
    FUZZ_CHECK(azo_json_quote(text, NULL, 0, &len) == AZO_ERR_LIMIT && len >= 2);
    char *quoted = (char *)malloc(len + 1);
    char *twice = (char *)malloc(len + 1);
    FUZZ_CHECK(azo_json_quote(text, quoted, len, &len) == AZO_ERR_LIMIT);
    FUZZ_CHECK(azo_json_quote(text, quoted, len + 1, &len) == AZO_OK && quoted[len] == '\0');
    FUZZ_CHECK(ref_json(fuzz_view(quoted, len), 0));
    char *back = fuzz_json_text(fuzz_view(quoted, len), &back_len);
    FUZZ_CHECK(back != NULL && (!ref_is_utf8(text) || fuzz_same(fuzz_view(back, back_len), text)));
    FUZZ_CHECK(azo_json_quote(fuzz_view(back, back_len), twice, len + 1, &twice_len) == AZO_OK);
    FUZZ_CHECK(fuzz_same(fuzz_view(quoted, len), fuzz_view(twice, twice_len)));
    free(back);
    free(twice);
    free(quoted);
}

/* ---- numbers ---- */

static uint64_t fuzz_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Exactly what strtod reads, if it is a JSON number that fits a double. */
static void fuzz_json_number(azo_str text) {
    double value = 1;
    bool is_number = text.len > 0 && ref_json_number(text, 0) == text.len;
    azo_result r = azo_json_number(text, &value);
    FUZZ_CHECK(r == AZO_OK || (r == AZO_ERR_JSON && fuzz_bits(value) == 0));
    if (is_number) {
        char *copy = fuzz_text(text);
        double right = strtod(copy, NULL);
        FUZZ_CHECK((r == AZO_OK) == (right >= -DBL_MAX && right <= DBL_MAX));
        FUZZ_CHECK(r != AZO_OK || fuzz_bits(value) == fuzz_bits(right));
        free(copy);
    } else {
        FUZZ_CHECK(r == AZO_ERR_JSON);
    }
}

/* A number that is printed is JSON, and is read back the same. */
static void fuzz_print_double(double value) {
    test_memory m;
    azoi_buf out;
    if (value - value < 0 || value - value > 0 || !(value - value == 0)) {
        return; /* infinite, or none */
    }
    fuzz_memory_open(&m);
    azoi_buf_init(&out, &m.hook, SIZE_MAX, false);
    azoi_print_double(&out, value);
    double back = 1;
    FUZZ_CHECK(ref_json(azoi_buf_view(&out), 0));
    FUZZ_CHECK(azo_json_number(azoi_buf_view(&out), &back) == AZO_OK && fuzz_bits(back) == fuzz_bits(value));
    azoi_buf_free(&out);
    test_memory_close(&m);
}

static void fuzz_parse_u64(azo_str text) {
    uint64_t value = 0;
    bool digits = text.len > 0 && ref_digits(text, 0) == text.len;
    bool ok = azoi_parse_u64(text, &value);
    char *copy = fuzz_text(text);
    errno = 0;
    unsigned long long right = strtoull(copy, NULL, 10);
    FUZZ_CHECK(ok == (digits && errno == 0));
    FUZZ_CHECK(!ok || value == right);
    free(copy);
}

static void fuzz_number(unsigned char steer, azo_str bytes) {
    uint64_t bits = 0;
    double value;
    (void)steer;
    fuzz_json_number(bytes);
    fuzz_parse_u64(bytes);
    memcpy(&bits, bytes.ptr, bytes.len < sizeof bits ? bytes.len : sizeof bits);
    memcpy(&value, &bits, sizeof value);
    fuzz_print_double(value);
    if (azo_json_number(bytes, &value) == AZO_OK) {
        fuzz_print_double(value);
    }
}

/* ---- walks: both must give the text without its white space ---- */

static void fuzz_walk_tokens(const azoi_json *j, int token, test_notes *out) {
    azo_str raw = azoi_json_raw(j, token);
    bool object = azoi_is(raw, '{');
    if (!object && !azoi_is(raw, '[')) {
        test_note_bytes(out, raw.ptr, raw.len);
        return;
    }
    test_note(out, object ? "{" : "[");
    int at = azoi_json_child(j, token, token);
    while (at >= 0) {
        int value = at;
        if (object) {
            azo_str key = azoi_json_raw(j, at);
            test_note_bytes(out, key.ptr, key.len);
            test_note(out, ":");
            value = at + 1;
        }
        fuzz_walk_tokens(j, value, out);
        at = azoi_json_child(j, token, at);
        test_note(out, at >= 0 ? "," : "");
    }
    test_note(out, object ? "}" : "]");
}

static void fuzz_walk_text(azo_str value, test_notes *out) {
    azo_str rest = value;
    azo_str key;
    azo_str item;
    bool object = value.ptr[0] == '{';
    if (!object && value.ptr[0] != '[') {
        test_note_bytes(out, value.ptr, value.len);
        return;
    }
    test_note(out, object ? "{" : "[");
    for (bool first = true; azoi_json_step(&rest, object ? &key : NULL, &item); first = false) {
        test_note(out, first ? "" : ",");
        FUZZ_CHECK(fuzz_within(item, value));
        if (object) {
            test_note(out, "\"");
            test_note_bytes(out, key.ptr, key.len);
            test_note(out, "\":");
        }
        fuzz_walk_text(item, out);
    }
    test_note(out, object ? "}" : "]");
}

/* Every scalar once more, through the public functions. */
static void fuzz_json_scalars(const azoi_json *j, const azo_allocator *allocator) {
    for (int i = 0; i < j->count; i++) {
        azo_str raw = azoi_json_raw(j, i);
        int64_t whole;
        if (azoi_is(raw, '"')) {
            size_t len = 0;
            char *text = fuzz_json_text(raw, &len);
            azoi_buf out;
            azoi_buf_init(&out, allocator, SIZE_MAX, false);
            FUZZ_CHECK(text != NULL && azoi_json_text(j, i, &out));
            FUZZ_CHECK(fuzz_same(fuzz_view(text, len), azoi_buf_view(&out)));
            azoi_buf_free(&out);
            fuzz_json_quote(fuzz_view(text, len));
            free(text);
        } else if (azoi_is(raw, '-') || azoi_is_digit(raw.ptr[0])) {
            fuzz_json_number(raw);
        }
        if (azoi_json_int(j, i, &whole)) {
            FUZZ_CHECK(whole > -9000000000000000 && whole < 9000000000000000);
        }
    }
}

/* The first of equal names counts, whichever way it is looked for. */
static void fuzz_json_members(const azoi_json *j, azo_str text) {
    int at = azoi_is(azoi_json_raw(j, 0), '{') ? azoi_json_child(j, 0, 0) : -1;
    for (int i = 0; i < 8 && at >= 0; i++, at = azoi_json_child(j, 0, at)) {
        azo_str key = azoi_inside(azoi_json_raw(j, at));
        char *name = fuzz_text(key);
        azo_str found;
        azo_str picked;
        int value = azoi_json_get(j, 0, name);
        FUZZ_CHECK(value > 0 && value <= at + 1);
        FUZZ_CHECK(azoi_json_find(text, name, &picked) && fuzz_same(picked, azoi_json_raw(j, value)));
        if (strpbrk(name, ".[") == NULL && name[0] != '\0') {
            FUZZ_CHECK(azo_json_get(text, name, &found) == AZO_OK && found.ptr == picked.ptr &&
                       found.len == picked.len);
        }
        free(name);
    }
}

static void fuzz_json(unsigned char steer, azo_str text) {
    test_memory m;
    azoi_buf tokens;
    azoi_json j;
    size_t offset = 0;
    bool valid = ref_json(text, AZO_MAX_JSON_DEPTH);
    (void)steer;
    FUZZ_CHECK(azoi_json_check(text, &offset) == valid);
    FUZZ_CHECK(valid ? offset == text.len : offset <= text.len);
    fuzz_memory_open(&m);
    azoi_buf_init(&tokens, &m.hook, SIZE_MAX / 2, false);
    azo_result r = azoi_json_parse(&tokens, text, &j);
    azo_str root = azoi_trim(text);
    bool container = valid && (root.ptr[0] == '{' || root.ptr[0] == '[');
    FUZZ_CHECK(r == AZO_OK || r == AZO_ERR_JSON);
    FUZZ_CHECK(r == AZO_OK ? valid : !container); /* a number or word alone is nothing to jsmn */
    if (container) {
        test_notes all[3];
        memset(all, 0, sizeof all);
        ref_json_compact(text, &all[0]);
        fuzz_walk_tokens(&j, 0, &all[1]);
        fuzz_walk_text(root, &all[2]);
        for (size_t i = 1; i < 3; i++) {
            fuzz_check_equal(&all[0], &all[i]);
        }
        for (size_t i = 0; i < 3; i++) {
            test_notes_free(&all[i]);
        }
        fuzz_json_scalars(&j, &m.hook);
        fuzz_json_members(&j, root);
    }
    azoi_buf_free(&tokens);
    test_memory_close(&m);
    size_t len = 0;
    char *string = fuzz_json_text(text, &len);
    FUZZ_CHECK((string != NULL) == (valid && text.ptr[0] == '"' && text.ptr[text.len - 1] == '"'));
    free(string);
    fuzz_json_quote(text);
}

/* A path, a line end, and the JSON to follow it in: what is found is a value of that text. */
static void fuzz_json_path(unsigned char steer, azo_str bytes) {
    azo_str json = bytes;
    char *path = fuzz_text(fuzz_field(&json, '\n'));
    azo_str value = fuzz_view("x", 1);
    azo_result r = azo_json_get(json, path, &value);
    bool valid = ref_json(json, AZO_MAX_JSON_DEPTH);
    (void)steer;
    FUZZ_CHECK(r == AZO_OK || r == AZO_ERR_JSON || r == AZO_ERR_ARGUMENT);
    FUZZ_CHECK(valid || r == AZO_ERR_JSON);
    FUZZ_CHECK(r == AZO_OK || (value.ptr == NULL && value.len == 0));
    if (r == AZO_OK) {
        FUZZ_CHECK(fuzz_within(value, json) && ref_json(value, AZO_MAX_JSON_DEPTH));
        FUZZ_CHECK(!ref_is_blank(value.ptr[0]) && !ref_is_blank(value.ptr[value.len - 1]));
        FUZZ_CHECK(azo_json_get(value, "", &json) == AZO_OK && json.ptr == value.ptr && json.len == value.len);
    }
    free(path);
}

#endif
