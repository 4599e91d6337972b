# The network scanner against a small clinic of two machines.
{
  name = "network-scanner";

  nodes = {
    appliance = {
      imports = [ ../../modules ];
      appliance = {
        enable = true;
        identity.enable = true;
        network.enable = false;
        watchdog.enable = false;
      };
      services.network-scanner = {
        enable = true;
        settings = {
          interface = "eth1";
          exclude = [ "192.168.1.200" ];
        };
      };
      networking.nftables.enable = true;
    };

    # A printer: a host that listens where printers listen, and keeps what it is sent.
    printer =
      { pkgs, ... }:
      {
        networking.firewall.allowedTCPPorts = [ 9100 ];
        systemd.services.printer = {
          wantedBy = [ "multi-user.target" ];
          serviceConfig.ExecStart = "${pkgs.socat}/bin/socat -u TCP-LISTEN:9100,fork,reuseaddr OPEN:/var/lib/printed,creat,append";
        };
      };

    workstation = {
      networking.firewall.allowedTCPPorts = [ 22 ];
      services.openssh.enable = true;
    };
  };

  testScript = # python
    ''
      import json

      API = "curl --silent --show-error --fail --max-time 30 --unix-socket /run/network-scanner/api.sock http://scanner"

      start_all()
      printer.wait_for_open_port(9100)
      workstation.wait_for_open_port(22)
      appliance.wait_for_unit("network-scanner.service")
      appliance.wait_for_file("/run/network-scanner/api.sock")

      def devices():
          return json.loads(appliance.succeed(f"{API}/v1/devices"))

      with subtest("A scan finds both machines"):
          appliance.succeed(f"{API}/v1/scans -X POST")
          appliance.wait_until_succeeds(f"test $({API}/v1/devices | grep -o 192.168.1. | wc -l) -ge 2", timeout=300)
          assert len(devices()) >= 2, devices()

      with subtest("The printer was not sent a byte"):
          printer.fail("test -s /var/lib/printed")

      with subtest("A person's word outlives the next scan"):
          device = devices()[0]["id"]
          appliance.succeed(
              f"{API}/v1/devices/{device}/policy -X PUT -H 'Content-Type: application/json' "
              """--data '{"policy": "excluded"}'"""
          )
          appliance.succeed(f"{API}/v1/scans -X POST")
          appliance.wait_until_succeeds(f"{API}/v1/devices/{device} | grep excluded")

      with subtest("It holds the one capability it needs"):
          capabilities = appliance.succeed("systemctl show --property CapabilityBoundingSet --value network-scanner.service")
          assert capabilities.strip() == "cap_net_raw", capabilities
    '';
}
