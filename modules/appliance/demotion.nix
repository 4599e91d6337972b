# What the initrd does when it cannot go on: it restarts, and a boot entry that has already been
# blessed gives itself up first, because the boot loader no longer counts its tries.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.appliance.demotion;
  inherit (config.appliance.update) package;

  script = "appliance-demote";

  # The drop-ins in the place where systemd packages keep them.
  units = pkgs.linkFarm "appliance-initrd-units" (
    map (name: {
      name = "lib/systemd/system/${name}";
      path = package.initrd + "/${name}";
    }) (lib.attrNames package.initrdUnits)
  );
in
{
  options.appliance.demotion.enable = lib.mkOption {
    type = lib.types.bool;
    default = config.appliance.healthGate.enable;
    defaultText = lib.literalExpression "config.appliance.healthGate.enable";
    description = ''
      Whether an initrd that cannot open its slot restarts the machine instead of waiting at an emergency console, and
      whether a slot that was good and no longer opens hands over to the other one.
    '';
  };

  config = lib.mkIf cfg.enable {
    boot.initrd = {
      systemd = {
        enable = true;
        packages = [ units ];
        contents."/usr/lib/appliance-update/${script}".source = package.initrd + "/${script}";
      };
      # The boot entry is renamed on the ESP.
      supportedFilesystems.vfat = true;
      availableKernelModules = [ "efivarfs" ];
    };
  };
}
