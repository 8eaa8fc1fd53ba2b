/* eva_head.c - a response head: where it ends, its status line, and header lines that are known up to their last bytes.
 */
#ifndef EVA_LEN
#define EVA_LEN 1
#endif
#define EVA_BLOCK fresh
#include "eva.h"

static void size(size_t len) {
    size_t from = eva_any(0, len);
    size_t size = azoi_head_size(eva_text("", EVA_LEN, len), from);
    //@ assert size <= len;
    (void)size;
}

static void head(const char *known, size_t len) {
    azo_error error;
    azoi_head out;
    azo_str text = eva_text(known, EVA_LEN, len);
    azoi_error_clear(&error);
    (void)azoi_head_parse(text, false, &out, &error);
}

int main(void) {
    static const char *const known[] = {"HTTP/1.1 ",
                                        "HTTP/1.1 200\r\n",
                                        "HTTP/1.1 200\r\nContent-Length: 1",
                                        "HTTP/1.1 200\r\nConnection: ",
                                        "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r",
                                        "HTTP/1.0 204\nContent-Length: 0\n"};
    size_t len = eva_any(0, EVA_LEN);
    size_t form = eva_any(0, sizeof known / sizeof known[0]);
    //@ split len;
    //@ split form;
    if (form == sizeof known / sizeof known[0]) {
        size(len);
    } else {
        head(known[form], len);
    }
    return 0;
}
