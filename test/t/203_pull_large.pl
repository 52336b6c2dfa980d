# A page of many records costs a bounded multiple of its size: what mapping a
# record takes is given back before the next one.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Cluster;
use Test::More;

my $node = SyncExt::Cluster->new('main', database => 'hub');
my $shipped = PostgreSQL::Test::Utils::slurp_file("$FindBin::Bin/../../connectors/stripe.json");

$node->sql("SELECT sync.create_canonical_model();
	SELECT sync.register_connector(\$manifest\$$shipped\$manifest\$::jsonb);
	SELECT sync.track('canonical.customer');
	CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'stripe');
	CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key');
	SELECT sync.create_stream('billing', 'customer')");

my ($applied, $peak) = split /\n/, $node->sql(<<'EOS');
CREATE TEMP TABLE page AS SELECT jsonb_agg(jsonb_build_object('id', 'cus_' || i, 'object', 'customer', 'name', 'Name ' || i,
	'email', 'a' || i || '@example.com', 'created', 1700000000, 'tax_exempt', 'none', 'metadata', '{}'::jsonb,
	'address', jsonb_build_object('city', 'X', 'country', 'DE', 'line1', 'Street'))) AS records FROM generate_series(1, 20000) i;
SELECT applied FROM page, sync._apply_page(1, records);
CREATE TEMP TABLE status (line text);
COPY status FROM PROGRAM 'grep VmHWM /proc/$PPID/status | tr -cd 0-9';
SELECT line FROM status;
EOS
is($applied, 20000, 'a page of 20 000 records is applied');
cmp_ok($peak, '<', 450 * 1024, 'within 450 MB, for 4 MB of JSON') or diag("$peak kB");

$node->stop;
done_testing();
