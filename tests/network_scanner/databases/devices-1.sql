BEGIN TRANSACTION;
CREATE TABLE addresses (
  device_id TEXT NOT NULL REFERENCES devices(id) ON DELETE CASCADE, kind TEXT NOT NULL, address TEXT NOT NULL,
  first_seen REAL NOT NULL, last_seen REAL NOT NULL, PRIMARY KEY (device_id, kind, address)) WITHOUT ROWID;
INSERT INTO "addresses" VALUES('aa303e6aceaa5381','ip','10.0.0.5',1800000000.0,1800000000.0);
INSERT INTO "addresses" VALUES('aa303e6aceaa5381','mac','98:e7:43:00:00:01',1800000000.0,1800000000.0);
INSERT INTO "addresses" VALUES('b138160896c03d9b','ip','10.0.0.6',1800000000.0,1800000000.0);
INSERT INTO "addresses" VALUES('b138160896c03d9b','mac','da:a1:19:00:00:01',1800000000.0,1800000000.0);
CREATE TABLE devices (
  id TEXT PRIMARY KEY, first_seen REAL NOT NULL, last_seen REAL NOT NULL, device_class TEXT NOT NULL,
  confidence REAL NOT NULL, reasons TEXT NOT NULL, class_locked INTEGER NOT NULL, policy TEXT NOT NULL,
  policy_by TEXT NOT NULL, presence TEXT NOT NULL, missed INTEGER NOT NULL, fragile INTEGER NOT NULL);
INSERT INTO "devices" VALUES('aa303e6aceaa5381',1800000000.0,1800000000.0,'camera',1.0,'["a person said so"]',1,'excluded','person','up',0,0);
INSERT INTO "devices" VALUES('b138160896c03d9b',1800000000.0,1800000000.0,'unknown',0.0,'["nothing is known of it yet"]',0,'standard','','up',0,0);
CREATE TABLE events (
  id INTEGER PRIMARY KEY, device_id TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL);
INSERT INTO "events" VALUES(1,'aa303e6aceaa5381',1800000000.0,'discovered','first seen as 98:e7:43:00:00:01 at 10.0.0.5');
INSERT INTO "events" VALUES(2,'aa303e6aceaa5381',1800000000.0,'new-service','now listens on 22/tcp');
INSERT INTO "events" VALUES(3,'aa303e6aceaa5381',1800000000.0,'policy-changed','excluded by a person');
INSERT INTO "events" VALUES(4,'aa303e6aceaa5381',1800000000.0,'class-set','camera by a person');
INSERT INTO "events" VALUES(5,'b138160896c03d9b',1800000000.0,'discovered','first seen as da:a1:19:00:00:01 at 10.0.0.6');
CREATE TABLE facts (
  device_id TEXT NOT NULL REFERENCES devices(id) ON DELETE CASCADE, kind TEXT NOT NULL, value TEXT NOT NULL,
  first_seen REAL NOT NULL, last_seen REAL NOT NULL, PRIMARY KEY (device_id, kind, value)) WITHOUT ROWID;
INSERT INTO "facts" VALUES('aa303e6aceaa5381','dhcp-name','''; DROP TABLE devices; -- <b> 🏥',1800000000.0,1800000000.0);
INSERT INTO "facts" VALUES('aa303e6aceaa5381','port','22/tcp',1800000000.0,1800000000.0);
INSERT INTO "facts" VALUES('aa303e6aceaa5381','vendor','Dell Inc.',1800000000.0,1800000000.0);
INSERT INTO "facts" VALUES('b138160896c03d9b','randomised','yes',1800000000.0,1800000000.0);
CREATE TABLE scans (id TEXT PRIMARY KEY, started_at REAL NOT NULL, document TEXT NOT NULL);
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "settings" VALUES('paused_until','');
CREATE INDEX events_device ON events(device_id, at);
COMMIT;
PRAGMA user_version=1;
