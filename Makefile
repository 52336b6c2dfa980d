# sync_ext: build, install and test.
#
#   make                 build the library and the install script
#   make install         install them (touches no packages)
#   make check           install what the tests need, build, run every test
#   make check SUITE=ownership   those of one capability
#   make demo            install what the demo needs, build, run the main job
#   make month           a month's books in three systems, with faults to find and repair
#   make torture         writers, vendors and disasters for some minutes
#   make bench           install what the benchmarks need, build, measure
#   make format / lint   rewrite / verify the C sources with clang-format
#   make clean
#
# SYNC_EXT_TEST=1 compiles in the crash points and fault hooks that the tests
# use; nobody should run such a library in production.

PG_CONFIG ?= pg_config
EXT_VERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" sync_ext.control)

C_SOURCES := $(sort $(wildcard src/*/*.c))
C_FILES := $(C_SOURCES) $(sort $(wildcard src/*/*.h test/unit/*.c test/unit/*.h \
	test/sandbox/*.c test/sandbox/*.h test/bench/*.c))

# Rules of single folders: generated headers, listed in EXTRA_CLEAN.
FOLDER_RULES := $(sort $(wildcard src/*/Makefile.inc))

# These goals must work on a machine that has no PostgreSQL yet, so they never
# read PGXS. Any other goal given beside them goes through a second make.
HARNESS_GOALS := check demo month bench torture clean format lint

ifneq (,$(filter $(HARNESS_GOALS),$(MAKECMDGOALS)))

.PHONY: $(HARNESS_GOALS)

check:
	@PG_CONFIG='$(origin_pg_config)' exec test/bin/check

bench:
	@MAKEFLAGS= PG_CONFIG='$(origin_pg_config)' exec test/bin/bench

torture:
	@PG_CONFIG='$(origin_pg_config)' exec test/bin/torture

demo:
	@PG_CONFIG='$(origin_pg_config)' exec test/bin/demo

month:
	@PG_CONFIG='$(origin_pg_config)' exec test/bin/month

# An explicit PG_CONFIG reaches the scripts; otherwise they choose PostgreSQL 15.
origin_pg_config := $(if $(filter file default,$(origin PG_CONFIG)),,$(PG_CONFIG))

clean:
	rm -f sync_ext.so sync_ext--$(EXT_VERSION).sql .build-flags .exports-checked
	rm -rf results output_iso regression.diffs regression.out tmp_check tmp_check_iso
	rm -rf $(EXTRA_CLEAN)
	find src -name '*.o' -delete -o -name '*.d' -delete
	@for dir in test/unit test/sandbox test/bench test/fuzz; do \
		if [ -f $$dir/Makefile ]; then $(MAKE) --no-print-directory -C $$dir clean; fi; \
	done

format:
	clang-format -i $(filter-out $(EXTRA_CLEAN),$(C_FILES))

# Formatting, shell syntax, Perl syntax and JSON syntax.
lint:
	clang-format --dry-run --Werror $(filter-out $(EXTRA_CLEAN),$(C_FILES))
	@for file in .ci/run $(wildcard test/bin/*); do \
		case "$$(head -n 1 $$file)" in \
		*bash) bash -n $$file ;; \
		*perl) perl -Itest/perl -c $$file ;; \
		esac || exit 1; \
	done
	@for file in $(wildcard connectors/*.json); do \
		perl -MJSON::PP -0777 -ne 'JSON::PP->new->utf8->decode($$_)' $$file \
			|| { echo "$$file: not JSON" >&2; exit 1; }; \
	done

-include $(FOLDER_RULES)

OTHER_GOALS := $(filter-out $(HARNESS_GOALS),$(MAKECMDGOALS))
ifneq (,$(OTHER_GOALS))
.PHONY: $(OTHER_GOALS)
$(OTHER_GOALS):
	+@$(MAKE) --no-print-directory $@
endif

else # goals that compile or install

ifeq (,$(shell command -v $(PG_CONFIG) 2>/dev/null))
$(error $(PG_CONFIG) not found: install the Debian package postgresql-server-dev-15 or set PG_CONFIG)
endif
ifeq (,$(shell command -v pkg-config 2>/dev/null))
$(error pkg-config not found: install the Debian package pkg-config)
endif

# $(call require,pkg-config module,Debian package)
require = $(if $(shell pkg-config --exists $(1) && echo yes),,$(error $(1) not found by pkg-config: install the Debian package $(2)))
ifneq (uninstall,$(MAKECMDGOALS))
$(call require,libcurl,libcurl4-openssl-dev)
$(call require,jansson,libjansson-dev)
$(call require,libcrypto,libssl-dev)
endif

LIBRARIES := libcurl jansson libcrypto

EXTENSION = sync_ext
MODULE_big = sync_ext
OBJS = $(C_SOURCES:.c=.o)
DATA = $(sort $(wildcard sql/updates/*.sql))
DATA_built = sync_ext--$(EXT_VERSION).sql

# The server's own headers are system headers, so that -Wextra speaks of our
# code only. Every callback that the server or libcurl dictates has parameters
# which it does not use; comparing int with Size is the server's own idiom.
PG_CPPFLAGS = -Isrc -isystem $(shell $(PG_CONFIG) --includedir-server) \
	-DSYNC_EXT_VERSION='"$(EXT_VERSION)"' -MMD -MP $(shell pkg-config --cflags $(LIBRARIES))
PG_CFLAGS = -Wall -Wextra -Werror -Wmissing-prototypes -Wvla \
	-Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers \
	-fvisibility=hidden
SHLIB_LINK = $(shell pkg-config --libs $(LIBRARIES))

# PostgreSQL 16 made PGDLLEXPORT mean default visibility; before it was empty.
PG_MAJOR := $(shell $(PG_CONFIG) --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
ifneq (,$(filter 15,$(PG_MAJOR)))
PG_CPPFLAGS += '-DPGDLLEXPORT=__attribute__((visibility("default")))'
endif

ifeq ($(SYNC_EXT_TEST),1)
PG_CPPFLAGS += -DSYNC_EXT_TEST_HOOKS
endif

# No bitcode: nothing here gains from inlining into JIT code, and clang would
# become a build dependency.
override with_llvm = no

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# The install script: every part in the order of its name.
SQL_PARTS := $(sort $(wildcard sql/parts/*.sql))

sync_ext--$(EXT_VERSION).sql: $(SQL_PARTS) sync_ext.control Makefile
	@echo 'building $@'
	@{ printf '%s\n' '-- Built from sql/parts; change those.' \
		'\echo Use "CREATE EXTENSION sync_ext" to load this file. \quit'; \
	for part in $(SQL_PARTS); do printf '\n-- %s\n' "$$part"; cat "$$part"; done; } > $@.tmp
	@mv $@.tmp $@

# What a folder needs beside the pattern rules.
-include $(FOLDER_RULES)

# Objects depend on the flags they were built with: a library with test hooks
# never survives into a build without them, nor one for another server.
BUILD_FLAGS = $(CC) $(CFLAGS) $(CPPFLAGS)
.PHONY: force
.build-flags: force
	@printf '%s\n' "$$BUILD_FLAGS" | cmp -s - $@ || printf '%s\n' "$$BUILD_FLAGS" > $@
.build-flags: export BUILD_FLAGS := $(BUILD_FLAGS)
$(OBJS): .build-flags
-include $(OBJS:.o=.d)

# A function that SQL calls needs default visibility on PostgreSQL 15, which
# PG_FUNCTION_INFO_V1 gives only to its info record: say so at build time and
# not at CREATE EXTENSION. The same for a symbol that nobody defines.
all: .exports-checked
.exports-checked: sync_ext.so
	@hidden=$$(nm -D --defined-only sync_ext.so | awk '{ seen[$$3] = 1 } \
		END { for (s in seen) if (sub(/^pg_finfo_/, "", s) && !(s in seen)) print s }'); \
	if [ -n "$$hidden" ]; then \
		echo "error: write PGDLLEXPORT before the definition of: $$hidden" >&2; exit 1; \
	fi
	@touch $@

# Connectors go beside the extension's scripts, in a folder of their own.
CONNECTORS := $(sort $(wildcard connectors/*.json))
connector_dir = $(DESTDIR)$(datadir)/extension/sync_ext/connectors

install: install-connectors
.PHONY: install-connectors uninstall-connectors
install-connectors: installdirs
	$(MKDIR_P) '$(connector_dir)'
ifneq (,$(CONNECTORS))
	$(INSTALL_DATA) $(CONNECTORS) '$(connector_dir)/'
endif

uninstall: uninstall-connectors
uninstall-connectors:
	rm -rf '$(DESTDIR)$(datadir)/extension/sync_ext'

endif
