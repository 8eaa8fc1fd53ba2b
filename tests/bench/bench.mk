# bench.mk - included by the Makefile: what `make bench` builds and runs. Needs nginx, libcurl, cJSON, OpenSSL (Debian:
# nginx-light libcurl4-openssl-dev libcjson-dev libssl-dev), and valgrind and strace for the counts.

BENCH_NAMES = main azo curl floor heap heap_off run peer relay data
BENCH_OBJECTS = $(BENCH_NAMES:%=$(BUILD)/benchmark/%.o)
BENCH_PROGRAMS = $(addprefix $(BUILD)/,bench bench_heap bench_curl bench_curl_heap bench_floor bench_floor_heap \
    bench_run bench_peer bench_relay bench_data)
# Linked statically, as floors are; other libraries are what the system has.
BENCH_MBEDTLS = $(if $(MBEDTLS_ROOT),$(MBEDTLS_LIBS),-Wl,-Bstatic $(MBEDTLS_LIBS) -Wl,-Bdynamic)
BENCH_LINK = $(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@
BENCH = quick

.PHONY: bench bench-programs bench-servers bench-smoke

bench: bench-programs
	@AZO_TEST_BUILD=$(BUILD) tests/bench/bench.sh $(BENCH)

# For single figures: build/bench MODE HOST:PORT COUNT.
bench-servers: bench-programs
	@AZO_TEST_BUILD=$(BUILD) tests/bench/bench.sh servers

bench-smoke: bench-programs
	@AZO_TEST_BUILD=$(BUILD) tests/bench/smoke.sh

bench-programs: $(BENCH_PROGRAMS)

$(BENCH_OBJECTS): $(BUILD)/benchmark/%.o: tests/bench/%.c $(BUILD)/flags
	@mkdir -p $(BUILD)/benchmark
	$(COMPILE) -c $< -o $@

# Each client twice: as it is, and with every allocation counted.
$(BUILD)/bench: $(addprefix $(BUILD)/benchmark/,main.o azo.o heap_off.o)
	$(BENCH_LINK) $(BENCH_MBEDTLS)
$(BUILD)/bench_heap: $(addprefix $(BUILD)/benchmark/,main.o azo.o heap.o)
	$(BENCH_LINK) $(BENCH_MBEDTLS)
$(BUILD)/bench_floor: $(addprefix $(BUILD)/benchmark/,main.o floor.o heap_off.o)
	$(BENCH_LINK) $(BENCH_MBEDTLS)
$(BUILD)/bench_floor_heap: $(addprefix $(BUILD)/benchmark/,main.o floor.o heap.o)
	$(BENCH_LINK) $(BENCH_MBEDTLS)
$(BUILD)/bench_curl: $(addprefix $(BUILD)/benchmark/,main.o curl.o heap_off.o)
	$(BENCH_LINK) -lcurl -lcjson
$(BUILD)/bench_curl_heap: $(addprefix $(BUILD)/benchmark/,main.o curl.o heap.o)
	$(BENCH_LINK) -lcurl -lcjson
$(BUILD)/bench_peer: $(BUILD)/benchmark/peer.o
	$(BENCH_LINK) -lssl -lcrypto -lpthread
$(addprefix $(BUILD)/,bench_run bench_relay bench_data): $(BUILD)/bench_%: $(BUILD)/benchmark/%.o
	$(BENCH_LINK)

-include $(BENCH_OBJECTS:.o=.d)
