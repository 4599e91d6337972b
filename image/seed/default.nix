# What a technician left on the boot partition for this site goes to the state at the first start. The same files as in
# every other image of the appliance.
{ lib, pkgs, ... }:

let
  package =
    pkgs.runCommand "appliance-seed" { meta.description = "Takes over a site's settings at the first start"; }
      ''
        install -Dm755 ${./appliance-seed} $out/lib/appliance-seed/appliance-seed
        patchShebangs $out/lib/appliance-seed
        install -Dm644 ${./appliance-seed.service} $out/lib/systemd/system/appliance-seed.service
        substituteInPlace $out/lib/systemd/system/appliance-seed.service \
          --replace-fail /usr/lib/appliance-seed "$out/lib/appliance-seed"
      '';
in
{
  systemd.packages = [ package ];
  systemd.services.appliance-seed = {
    wantedBy = [ "multi-user.target" ];
    path = lib.mkForce [ pkgs.coreutils ];
  };
}
