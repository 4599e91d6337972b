# The lifeline on the image, with Python's own start broken: it wakes when the updater is marked as broken, asks its
# host, and takes nothing that its key has not signed.
{
  name = "lifeline";

  nodes.machine =
    { lib, pkgs, ... }:
    let
      # A key for this test alone; what it signs is worth nothing elsewhere.
      key = pkgs.runCommand "test-lifeline-key" { nativeBuildInputs = [ pkgs.minisign ]; } ''
        mkdir $out
        minisign -G -W -p $out/lifeline.pub -s $out/lifeline.key
      '';
    in
    {
      imports = [ ./image-node.nix ];
      appliance.lifeline = {
        urls = [ "http://localhost:8099" ];
        publicKeys = [ "${key}/lifeline.pub" ];
      };
      # Its host: one that serves pages in the place of releases, as a captive portal does.
      systemd.services.test-host = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = lib.escapeShellArgs [
          (lib.getExe pkgs.darkhttpd)
          (toString (pkgs.writeTextDir "index.html" "<html>please log in</html>"))
          "--port"
          "8099"
          "--addr"
          "127.0.0.1"
        ];
      };
    };

  testScript =
    { nodes, ... }:
    import ./image-disk.nix { inherit nodes; }
    + ''

      with subtest("It sleeps while the updater is well"):
          machine.succeed("touch /var/lib/appliance-update/last-contact")
          machine.succeed("systemctl start appliance-lifeline.service")

      with subtest("It wakes for a broken updater, needs no Python, and takes nothing unsigned"):
          slots = machine.succeed("lsblk --noheadings --output PARTLABEL /dev/nvme0n1")
          machine.succeed("echo 'the updater does not start' > /var/lib/appliance-update/updater-broken")
          machine.execute("systemctl start appliance-lifeline.service")
          machine.succeed("journalctl --unit appliance-lifeline.service --boot | grep -i -E 'broken|does not start'")
          assert machine.succeed("lsblk --noheadings --output PARTLABEL /dev/nvme0n1") == slots

      with subtest("One page says how the appliance is, whatever else runs"):
          machine.succeed("systemctl stop local-portal.service compliance-agent.service")
          machine.wait_until_succeeds("curl --silent --fail http://localhost:8081/ | grep -i slot")
    '';
}
