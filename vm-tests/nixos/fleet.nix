# An appliance and its Central Command, on PostgreSQL: enrolment, check-in, an order, and an uplink
# that fails and comes back.
{ pkgs, ... }:

let
  # A certificate authority for this test alone, made while it is built.
  certificates =
    pkgs.runCommand "test-certificates"
      {
        nativeBuildInputs = [ pkgs.openssl ];
      }
      ''
        mkdir $out && cd $out
        openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -keyout ca.key -out ca.pem -subj "/CN=Test authority"
        openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj "/CN=central"
        printf 'subjectAltName=DNS:central\n' > extensions
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 36500 \
          -extfile extensions -out server.pem
      '';
in
{
  name = "fleet";

  nodes = {
    central = {
      imports = [ ../../modules ];
      services.central-command = {
        enable = true;
        openFirewall = true;
        database.createLocally = true;
        settings = {
          host = "0.0.0.0";
          checkin_interval = 10;
        };
        tls = {
          certificateFile = "/etc/central-tls/server.pem";
          keyFile = "/etc/central-tls/server.key";
        };
      };
      environment.etc = {
        "central-tls/server.pem".source = "${certificates}/server.pem";
        "central-tls/server.key".source = "${certificates}/server.key";
      };
    };

    appliance = {
      imports = [ ../../modules ];
      appliance = {
        enable = true;
        identity.enable = true;
        network.enable = false;
        watchdog.enable = false;
      };
      services = {
        compliance-agent.enable = true;
        network-scanner = {
          enable = true;
          settings.interface = "eth1";
        };
        local-portal.enable = true;
      };
      environment.etc."test-ca.pem".source = "${certificates}/ca.pem";
    };
  };

  testScript = # python
    ''
      import json

      API = "curl --silent --show-error --fail --max-time 30 --unix-socket /run/compliance-agent/api.sock http://agent"

      def command(words):
          return json.loads(central.succeed(f"runuser -u central-command -- central-command --json {words}"))

      start_all()
      central.wait_for_unit("central-command.service")
      central.wait_for_open_port(8443)
      appliance.wait_for_unit("compliance-agent.service")

      with subtest("A one-time code makes the appliance a device of its clinic"):
          command("site create Testville")
          code = command("enrolment-code create --site Testville")["code"]
          appliance.succeed(f"compliance-agent enrol --url https://central:8443 --code {code} --ca-file /etc/test-ca.pem")
          appliance.fail(f"compliance-agent enrol --url https://central:8443 --code {code}x --ca-file /etc/test-ca.pem")

      with subtest("It checks in"):
          central.wait_until_succeeds(
              "runuser -u central-command -- central-command --json device list | grep -i online", timeout=180
          )
          device = command("device list")[0]["id"]

      with subtest("A signed order is carried out"):
          order = command(f"order create {device} run_checks")["id"]
          central.wait_until_succeeds(
              f"runuser -u central-command -- central-command --json order show {order} | grep completed",
              timeout=180,
          )

      with subtest("Evidence written without an uplink arrives when it is back"):
          central.block()
          before = json.loads(appliance.succeed(f"{API}/v1/status"))["evidence_sequence"]
          appliance.succeed("systemctl restart compliance-agent.service")
          appliance.wait_until_succeeds(f"{API}/v1/status")
          appliance.succeed(f"{API}/v1/checks/run -X POST > /dev/null")
          central.unblock()
          appliance.wait_until_succeeds(
              f"""{API}/v1/status | grep -E '"pending": ?0'""", timeout=300
          )
          after = json.loads(appliance.succeed(f"{API}/v1/status"))["evidence_sequence"]
          assert after >= before, (before, after)
    '';
}
