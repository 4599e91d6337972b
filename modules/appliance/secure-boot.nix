# Secure Boot with keys that no build ever sees, and a state partition that opens for every system signed with them.
# What is signed is made by image/sign/sign-image on the machine with the keys (docs/secure-boot.md): build unsigned,
# sign, and build the image again with the signed files; the slots stay bit for bit the same.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (import ../../lib/layout.nix { inherit lib; }) layout state;

  cfg = config.appliance.secureBoot;
  encryption = cfg.encryptState;
  ukiFile = config.system.boot.loader.ukiFile;
  loader = "${config.systemd.package}/lib/systemd/boot/efi/systemd-boot${pkgs.stdenv.hostPlatform.efiArch}.efi";
in
{
  options.appliance.secureBoot = {
    enable = lib.mkEnableOption ''
      Secure Boot: the firmware starts only what was signed with the provider's key, boot loader and kernel image alike'';

    signed = {
      uki = lib.mkOption {
        type = lib.types.nullOr lib.types.path;
        default = null;
        example = lib.literalExpression "./signed/t640_2026.11.3.efi";
        description = ''
          The kernel image of this version as {command}`sign-image` wrote it. Null while it is still to be signed: then
          {option}`system.build.toSign` has what to sign, and an image built now does not start on a locked device.
        '';
      };
      loader = lib.mkOption {
        type = lib.types.nullOr lib.types.path;
        default = null;
        example = lib.literalExpression "./signed/systemd-bootx64.efi";
        description = "The boot loader as {command}`sign-image` wrote it.";
      };
    };

    loader = lib.mkOption {
      type = lib.types.path;
      internal = true;
      readOnly = true;
      default = if cfg.enable && cfg.signed.loader != null then cfg.signed.loader else loader;
      description = "The boot loader that goes onto the ESP of an image.";
    };

    pcrPublicKey = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      default = null;
      example = lib.literalExpression "./keys/pcr.pub";
      description = ''
        The public key (PEM) of the PCR policy. It goes into the kernel image; the state is sealed to it, and opens
        under every image whose measurements the matching private key has signed. It cannot be changed on a device
        without opening the state first.
      '';
    };

    encryptState = {
      enable = lib.mkEnableOption ''
        the encryption of the state partition, opened by the TPM. Takes effect when the partition is made, so on newly
        installed devices'';

      pcrs = lib.mkOption {
        type = lib.types.listOf (lib.types.ints.between 0 23);
        default = [ 7 ];
        description = ''
          PCRs that are bound by their value beside the signed policy of PCR 11. 7 holds whether Secure Boot is on and
          with which keys. Anything else (0, 2, 4) locks the state with the next firmware or boot loader update.
        '';
      };
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        boot.uki.settings.UKI = lib.mkIf (cfg.pcrPublicKey != null) { PCRPKey = "${cfg.pcrPublicKey}"; };

        # Made from the image without its signatures, so that asking for it never needs them.
        system.build.toSign = pkgs.runCommand "to-sign-${config.system.image.version}" { } ''
          mkdir $out
          ln -s ${loader} $out/systemd-boot.efi
          ${lib.optionalString (cfg.signed.uki == null) "ln -s ${config.system.build.uki}/${ukiFile} $out/"}
        '';

        assertions = [
          {
            assertion = config.appliance.update.enable;
            message = ''
              appliance.secureBoot.enable signs the kernel image of a slot, and this host has none. Import ./image and
              set appliance.update.enable, or sign a host with generations with tools of its own.
            '';
          }
          {
            assertion = (cfg.signed.uki == null) == (cfg.signed.loader == null);
            message = ''
              Of appliance.secureBoot.signed.uki and .loader only one is set: a locked device would not start. Sign both
              files of system.build.toSign with image/sign/sign-image and set both.
            '';
          }
          {
            assertion = encryption.enable -> cfg.pcrPublicKey != null;
            message = ''
              appliance.secureBoot.encryptState.enable without appliance.secureBoot.pcrPublicKey would seal the state to
              one single image, and the next update could not open it. Make a key pair (docs/secure-boot.md), set
              pcrPublicKey, and sign every image with --pcr-key.
            '';
          }
          {
            assertion = encryption.enable -> !(lib.any (pcr: lib.elem pcr [ 4 5 8 9 11 12 13 ]) encryption.pcrs);
            message = ''
              appliance.secureBoot.encryptState.pcrs names a PCR that every update changes (4, 5, 8, 9, 11, 12 or 13), so
              the first update would lock the state. Leave PCR 11 to the signed policy, and use 7 alone.
            '';
          }
        ];
      }

      (lib.mkIf (cfg.signed.uki != null) {
        # Stronger than the definition of nixpkgs' verity store, which then checks the root hash in it once more.
        system.build.uki = lib.mkOverride 98 (
          pkgs.runCommand ukiFile { } ''
            mkdir $out
            cp ${cfg.signed.uki} $out/${ukiFile}
          ''
        );
      })

      (lib.mkIf encryption.enable {
        systemd.repart.partitions.${state.name}.Encrypt = "tpm2";
        systemd.tpm2.pcrphases.enable = true;
        boot.initrd = {
          systemd = {
            tpm2 = {
              enable = true;
              # Phases of the boot are measured, as the signed policy foresees.
              pcrphases.enable = true;
            };
            repart.extraArgs = [
              "--tpm2-public-key=${cfg.pcrPublicKey}"
              "--tpm2-public-key-pcrs=11"
              "--tpm2-pcrs=${lib.concatMapStringsSep "+" toString encryption.pcrs}"
            ];
            storePaths = [ "${cfg.pcrPublicKey}" ];
            services.systemd-repart.before = [ "systemd-cryptsetup@state.service" ];
            # On trial a state that stays shut is the new system's fault, and the boot ends so that the old one comes
            # back. When there is nothing better to boot the TPM's measurements have changed for all of them: rebooting
            # would go on for ever, so the screen says what is wrong and waits for the recovery key.
            services.appliance-state-locked = {
              description = "Notice that the state does not open";
              wantedBy = [ "systemd-cryptsetup@state.service" ];
              unitConfig = {
                DefaultDependencies = false;
                Conflicts = "initrd-switch-root.target";
                Before = "initrd-switch-root.target";
              };
              serviceConfig.StandardError = "journal+console";
              script = ''
                PATH=/bin
                for _ in $(seq 180); do
                  [ ! -e /dev/mapper/state ] || exit 0
                  sleep 1
                done
                counted=$(cat /sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f 2>/dev/null | tail -c +5 | tr -d '\000') || :
                done=''${counted##*+*-}
                done=''${done%%.*}
                case $counted in
                  *+0-*) [ "$done" -gt ${toString layout.boot.tries} ] || systemctl reboot --force ;;
                  *+*) systemctl reboot --force ;;
                esac
                echo "The state partition does not open: the firmware, its settings or its keys have changed. Enter the recovery key (docs/secure-boot.md)." >&2
              '';
            };
          };
          luks.devices.state = {
            device = "/dev/disk/by-partlabel/${state.label}";
            crypttabExtraOpts = [
              "tpm2-device=auto"
              "tpm2-measure-pcr=yes"
              # Falls back to asking for the recovery key at the console.
              "password-echo=masked"
              "tries=0"
              "timeout=0"
            ];
          };
          availableKernelModules = [
            "dm_crypt"
            "tpm_crb"
            "tpm_tis"
          ];
        };
        fileSystems.${state.mount_point} = {
          device = lib.mkForce "/dev/mapper/state";
          # A person looks for the recovery key; a state that is missing is noticed above.
          options = [ "x-systemd.device-timeout=infinity" ];
        };
      })
    ]
  );
}
