# azopenai.h: builds the examples and the tests. `make help` lists what there is. Everything goes to build/.
# Needs GNU make, a C compiler, mbedTLS and jsmn; the tests need cmocka and openssl too.

BUILD = build
PREFIX = /usr/local
CFLAGS = -O2 -g
CPPFLAGS =
LDFLAGS =
STRICT = -std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wstrict-prototypes \
    -Wcast-qual -Wundef -Werror
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
VALGRIND = valgrind --quiet --suppressions=tests/valgrind.supp --leak-check=full --show-leak-kinds=all \
    --errors-for-leak-kinds=definite,possible --error-exitcode=99

# MBEDTLS_ROOT=dir takes mbedTLS from dir/usr/include and dir/usr/lib instead of the system.
ifdef MBEDTLS_ROOT
MBEDTLS_FLAGS = -isystem $(MBEDTLS_ROOT)/usr/include
MBEDTLS_DIR := $(patsubst %/libmbedtls.a,%,$(firstword $(wildcard $(MBEDTLS_ROOT)/usr/lib/*/libmbedtls.a \
    $(MBEDTLS_ROOT)/usr/lib/libmbedtls.a)))
MBEDTLS_LIBS = $(MBEDTLS_DIR)/libmbedtls.a $(MBEDTLS_DIR)/libmbedx509.a $(MBEDTLS_DIR)/libmbedcrypto.a
else
MBEDTLS_LIBS = -lmbedtls -lmbedx509 -lmbedcrypto
endif
export MBEDTLS_ROOT

VERSION = $(shell sed -n 's/^\#define AZO_VERSION "\(.*\)"/\1/p' azopenai.h)
JOBS := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
COMPILE = $(CC) $(STRICT) $(CFLAGS) $(CPPFLAGS) $(MBEDTLS_FLAGS) -I. -MMD -MP

EXAMPLES = hello chat async tools embed token az_login cron fixed
TESTS := $(sort $(patsubst tests/%.c,%,$(wildcard tests/unit_*.c tests/test_*.c tests/torture_*.c)))
SCRIPTS := $(sort $(wildcard tests/test_*.sh))
EXAMPLE_PROGRAMS = $(EXAMPLES:%=$(BUILD)/%)
TEST_PROGRAMS = $(TESTS:%=$(BUILD)/tests/%)
CERTS = build/certs
RUN_TESTS = AZO_TEST_CERTS=$(CERTS) AZO_TEST_BUILD=$(BUILD) tests/run.sh

.PHONY: all help demo test test-programs asan valgrind cover soak fuzz analysis \
    test-official compile-check matrix static size \
    run-matrix fixed lwip install clean force
.DELETE_ON_ERROR:

all: $(EXAMPLE_PROGRAMS)

help:
	@echo 'make                 the examples, in $(BUILD)/'
	@echo 'make demo            three calls: to the bundled service, or to AZURE_OPENAI_ENDPOINT if that is set'
	@echo 'make test            all tests; the last line says how many passed and failed'
	@echo 'make asan            the same under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make valgrind        the same under valgrind'
	@echo 'make soak            a million mixed requests with faults (AZO_TEST_SEED=n: others)'
	@echo 'make fuzz            each fuzz target for a minute (FUZZ_SECONDS=n, FUZZ=targets; needs clang)'
	@echo 'make analysis        all that reads the code: analysers, Frama-C, MSan and other sanitizers'
	@echo 'make cover           lines and branches of the header that no test reaches (needs gcovr)'
	@echo 'make test-official   the official npm packages against the bundled service (needs npm)'
	@echo 'make bench           ratios to libcurl and to a bare mbedTLS program (BENCH=quick or full; see tests/bench)'
	@echo 'make bench-servers   what those three talk to, until interrupted, and how to ask one of them for one figure'
	@echo 'make compile-check   the header under every compiler, standard and switch, without a warning'
	@echo 'make matrix          the same in 900 ways, with mbedTLS 2.28 and 3.6'
	@echo 'make static          one file with musl and the smallest mbedTLS, proven in an empty root'
	@echo 'make size            what that takes, beside a bare mbedTLS program and libcurl'
	@echo 'make run-matrix      the tests on i386, armhf, arm64, s390x (qemu) and musl'
	@echo 'make fixed           a client and mbedTLS in a buffer each: for ever, and of every size that is too small'
	@echo 'make lwip            examples/lwip.c: a chat over a network stack that is not the system'"'"'s'
	@echo 'make install         header and pkg-config file (PREFIX=$(PREFIX), DESTDIR=)'
	@echo 'make clean           removes build/'
	@echo
	@echo 'CC, CFLAGS and MBEDTLS_ROOT=dir (another mbedTLS: dir/usr/include, dir/usr/lib) apply to everything.'
	@echo 'TEST=names runs only those of: $(TESTS) $(notdir $(SCRIPTS))'

# ---- Building. Whatever was compiled with other flags is compiled again.

$(BUILD)/flags: force
	@mkdir -p $(BUILD)/tests
	@echo '$(COMPILE) $(LDFLAGS) $(MBEDTLS_LIBS)' | cmp -s - $@ || echo '$(COMPILE) $(LDFLAGS) $(MBEDTLS_LIBS)' >$@

$(BUILD)/%.o: examples/%.c $(BUILD)/flags
	$(COMPILE) -c $< -o $@

$(BUILD)/%.o: tests/%.c $(BUILD)/flags
	$(COMPILE) -c $< -o $@

$(BUILD)/tests/%.o: tests/%.c $(BUILD)/flags
	$(COMPILE) -Itests -c $< -o $@

# hello.c holds the library itself; the others are linked with azopenai.o.
$(BUILD)/hello: $(BUILD)/hello.o
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ $(MBEDTLS_LIBS)

$(filter-out $(BUILD)/hello,$(EXAMPLE_PROGRAMS)): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/azopenai.o
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ $(MBEDTLS_LIBS) -lm

$(BUILD)/fake_service: $(BUILD)/fake_main.o $(BUILD)/fake_service.o
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ $(MBEDTLS_LIBS) -lpthread

$(TEST_PROGRAMS): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/fake_service.o
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ -lcmocka $(MBEDTLS_LIBS) -lpthread -lm

# mbedTLS has no hooks for its allocator and its clock in the usual builds. So that the linker can put the tests' calloc,
# free and time in front of the C library's, these take mbedTLS statically where it can be had so.
STATIC_MBEDTLS := $(if $(MBEDTLS_ROOT),$(MBEDTLS_LIBS),$(filter /%,$(foreach name,mbedtls mbedx509 mbedcrypto,\
    $(shell $(CC) -print-file-name=lib$(name).a))))
ifneq ($(STATIC_MBEDTLS),)
$(BUILD)/tests/torture_tls $(BUILD)/tests/test_board: private MBEDTLS_LIBS = $(STATIC_MBEDTLS)
$(BUILD)/tests/torture_tls: private LDFLAGS += -Wl,--wrap=calloc -Wl,--wrap=free
$(BUILD)/tests/test_board: private LDFLAGS += -Wl,--wrap=time
endif

$(CERTS)/.complete: tests/make_certs.sh
	tests/make_certs.sh $(CERTS)

.SECONDARY:
-include $(wildcard $(BUILD)/*.d $(BUILD)/tests/*.d)

# ---- Running

demo: all $(BUILD)/fake_service $(CERTS)/.complete
	@AZO_TEST_CERTS=$(CERTS) AZO_TEST_BUILD=$(BUILD) tests/demo.sh

test-programs: all $(BUILD)/fake_service $(TEST_PROGRAMS) $(CERTS)/.complete

# A program that does not build is a failure among the others: run.sh then finds it missing.
test:
	@rm -f $(TEST_PROGRAMS)
	@$(MAKE) --no-print-directory -k -j$(JOBS) test-programs || true
	@$(RUN_TESTS) $(SCRIPTS) $(TEST_PROGRAMS)

# Slower tools take every n-th place of what `make test` takes whole; what compiles by itself has nothing to find here.
asan:
	@AZO_TEST_STRIDE=$${AZO_TEST_STRIDE:-10} $(MAKE) --no-print-directory test BUILD=build/asan \
	    CFLAGS='-O1 -g $(SANITIZE)' SCRIPTS=tests/test_examples.sh

valgrind:
	@$(MAKE) --no-print-directory -j$(JOBS) test-programs
	@AZO_TEST_STRIDE=$${AZO_TEST_STRIDE:-200} AZO_TEST_WRAP='$(VALGRIND)' $(RUN_TESTS) tests/test_examples.sh \
	    $(TEST_PROGRAMS)

# A hundred times as many requests as in `make test`; AZO_TEST_SEED makes it another run.
soak: $(BUILD)/fake_service $(BUILD)/tests/torture_soak $(CERTS)/.complete
	@AZO_TEST_SOAK=$${AZO_TEST_SOAK:-100} AZO_TEST_SECONDS=36000 $(RUN_TESTS) $(BUILD)/tests/torture_soak

# Needs clang with libFuzzer. FUZZ=targets: only those of tests/fuzz/seeds.
FUZZ_SECONDS = 60
fuzz:
	@AZO_TEST_BUILD=$(BUILD) tests/fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ)

# The long steps too, MSan among them, which builds mbedTLS for itself.
analysis: $(CERTS)/.complete
	@AZO_TEST_CERTS=$(CERTS) AZO_TEST_BUILD=$(BUILD) tests/analysis/run.sh all

# Which lines and branches of the header no test reaches, and whether the reasons for that still hold.
cover:
	@mkdir -p build/cover && find build/cover -name '*.gcda' -exec rm -f {} +
	@AZO_TEST_STRIDE=20 $(MAKE) --no-print-directory test BUILD=build/cover CFLAGS='-O0 -g --coverage' SCRIPTS=
	@tests/cover/cover.py build/cover

test-official: all $(BUILD)/fake_service $(CERTS)/.complete
	@if [ ! -e tests/official/run.sh ] || ! command -v npm >/dev/null 2>&1; then \
	    echo 'test-official: skipped, npm is not installed'; \
	else \
	    AZO_TEST_CERTS=$(CERTS) AZO_TEST_BUILD=$(BUILD) tests/official/run.sh; \
	fi

# ---- Other machines, compilers and builds: each installs what it needs, on Debian and as root

compile-check:
	@AZO_TEST_BUILD=$(BUILD) tests/ports/matrix.sh short

matrix:
	@AZO_TEST_BUILD=$(BUILD) tests/ports/matrix.sh

static:
	@AZO_TEST_BUILD=$(BUILD) tests/ports/static.sh

size:
	@AZO_TEST_BUILD=$(BUILD) tests/ports/size.sh

run-matrix:
	@AZO_TEST_BUILD=$(BUILD) tests/ports/run.sh

fixed:
	@AZO_TEST_BUILD=$(BUILD) tests/ports/fixed.sh

lwip:
	@AZO_TEST_BUILD=$(BUILD) tests/ports/lwip.sh

# ---- Measuring

include tests/bench/bench.mk

# ---- Installing

install:
	mkdir -p $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	cp azopenai.h $(DESTDIR)$(PREFIX)/include/azopenai.h
	chmod 644 $(DESTDIR)$(PREFIX)/include/azopenai.h
	printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' '' 'Name: azopenai' \
	    'Description: Azure OpenAI client without API keys, one C header over mbedTLS and jsmn' \
	    'Version: $(VERSION)' 'Cflags: -I$${includedir}' 'Libs: -lmbedtls -lmbedx509 -lmbedcrypto' \
	    >$(DESTDIR)$(PREFIX)/lib/pkgconfig/azopenai.pc
	chmod 644 $(DESTDIR)$(PREFIX)/lib/pkgconfig/azopenai.pc

clean:
	rm -rf build
