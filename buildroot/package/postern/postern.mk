################################################################################
#
# postern
#
################################################################################

# The checkout itself is the source. A local site skips the download step, in
# which Buildroot would vendor the crates, and is then built --offline --locked
# all the same: buildroot/image.sh vendors them in a step of its own, and names
# the folder in POSTERN_IMAGE_CRATES.
POSTERN_VERSION = $(if $(POSTERN_IMAGE_VERSION),$(POSTERN_IMAGE_VERSION),local)
POSTERN_SITE = $(realpath $(BR2_EXTERNAL_POSTERN_PATH)/..)
POSTERN_SITE_METHOD = local
POSTERN_LICENSE = Apache-2.0
POSTERN_LICENSE_FILES = LICENSE

# The root of the workspace is virtual: cargo install wants a package.
POSTERN_SUBDIR = firmware/postern

# libcrypto for SQLCipher, tss2-esys for the vault; aws-lc is built by cc alone.
POSTERN_DEPENDENCIES = host-pkgconf openssl tpm2-tss

# What a developer's checkout has besides sources: tens of gigabytes of builds,
# laboratories with their data, keys. None of it has any business in the build.
POSTERN_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = \
	--exclude=/target \
	--exclude=/.lab \
	--exclude=/keys \
	--exclude=/tests/fuzz/target \
	--exclude=/tests/fuzz/corpus

# Buildroot sets the profile through the environment, and with it takes back
# what the workspace's own release profile says: set back here. Arithmetic that
# wraps in silence is no release build of this program.
POSTERN_CARGO_ENV = \
	CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS="true" \
	CARGO_PROFILE_RELEASE_LTO="thin" \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS="4" \
	CARGO_PROFILE_RELEASE_OPT_LEVEL="3"

# Host and target have the same triple here, so that CC alone is not enough for
# the crates that compile C: each looks for its own name first.
POSTERN_CARGO_ENV += \
	CC_x86_64_unknown_linux_gnu="$(TARGET_CC)" \
	AR_x86_64_unknown_linux_gnu="$(TARGET_AR)" \
	OPENSSL_DIR="$(STAGING_DIR)/usr" \
	AWS_LC_SYS_CMAKE_BUILDER="0"

# No path of the build machine in the binary: two builds of one commit are equal.
POSTERN_CARGO_ENV += \
	CFLAGS_x86_64_unknown_linux_gnu="$(TARGET_CFLAGS) -ffile-prefix-map=$(POSTERN_IMAGE_CRATES)=/crates" \
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--remap-path-prefix=$(@D)=/postern --remap-path-prefix=$(POSTERN_IMAGE_CRATES)=/crates"

define POSTERN_USE_VENDORED_CRATES
	@test -n "$(POSTERN_IMAGE_CRATES)" && test -d "$(POSTERN_IMAGE_CRATES)" || { \
		echo "postern: no vendored crates in '$(POSTERN_IMAGE_CRATES)'; build with 'make image' in the checkout, which vendors them" >&2; \
		exit 1; }
	cp $(POSTERN_SITE)/.cargo/config.toml $(@D)/.cargo/config.toml
	printf '%s\n' \
		'' \
		'[source.crates-io]' \
		'replace-with = "vendored"' \
		'[source.vendored]' \
		'directory = "$(POSTERN_IMAGE_CRATES)"' \
		>>$(@D)/.cargo/config.toml
endef
POSTERN_POST_RSYNC_HOOKS += POSTERN_USE_VENDORED_CRATES

# systemd's package switches this back on after the fragments were merged;
# board/kernel/fragments/hardening.config says why it is off.
define POSTERN_LINUX_CONFIG_FIXUPS
	$(call KCONFIG_DISABLE_OPT,CONFIG_DMI_SYSFS)
endef

ifeq ($(BR2_PACKAGE_POSTERN_DEVELOPMENT_AGENT),y)
define POSTERN_INSTALL_DEVELOPMENT_AGENT
	cd $(@D)/tests/boot/agent && \
	$(TARGET_MAKE_ENV) $(TARGET_CONFIGURE_OPTS) $(PKG_CARGO_ENV) $(POSTERN_CARGO_ENV) \
		cargo install --offline --locked --root $(TARGET_DIR)/usr --bins --path ./ \
			--no-track --force -Z target-applies-to-host
endef
POSTERN_POST_INSTALL_TARGET_HOOKS += POSTERN_INSTALL_DEVELOPMENT_AGENT
endif

$(eval $(cargo-package))
