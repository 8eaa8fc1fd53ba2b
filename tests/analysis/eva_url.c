/* eva_url.c - URLs behind their scheme: user, host, brackets, port, path, query. */
#ifndef EVA_LEN
#define EVA_LEN 6
#endif
#define EVA_BLOCK fresh
#include "eva.h"

int main(void) {
    azo_error error;
    azoi_url url;
    size_t len = eva_any(0, EVA_LEN);
    //@ split len;
    azoi_error_clear(&error);
    (void)azoi_url_split(eva_text("http://", EVA_LEN, len), &url, &error);
    (void)azoi_is_ipv4(eva_text("", EVA_LEN, len));
    return 0;
}
