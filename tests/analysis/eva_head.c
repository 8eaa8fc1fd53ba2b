/* eva_head.c - a response head: where it ends, its status line, and header lines that are known up to their last bytes.
 */
#ifndef EVA_LEN
#define EVA_LEN 6
#endif
#define EVA_BLOCK fresh
#include "eva.h"

static void head(const char *known, size_t len) {
    azo_error error;
    azoi_head out;
    azo_str text = eva_text(known, EVA_LEN, len);
    azoi_error_clear(&error);
    (void)azoi_head_parse(text, false, &out, &error);
}

int main(void) {
    size_t len = eva_any(0, EVA_LEN);
    //@ split len;
    size_t from = eva_any(0, len);
    size_t size = azoi_head_size(eva_text("", EVA_LEN, len), from);
    //@ assert size <= len;
    (void)size;
    head("HTTP/1.1 ", len);
    head("HTTP/1.1 200 OK\r\n", len);
    head("HTTP/1.1 200 OK\r\nContent-Length: 1", len);
    head("HTTP/1.1 200 OK\r\nConnection: ", len);
    head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r", len);
    head("HTTP/1.0 204\nContent-Length: 0\n", len);
    return 0;
}
