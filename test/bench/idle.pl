# What the extension costs while there is nothing to do.
#
# bench: idle.cpu idle.wal idle.poll_wal
#
# 20 systems, 40 routes and 40 streams, each with a history: everything written has been delivered,
# every stream has been read once and is due again in an hour. Processor time is that of launcher and
# hub as the scheduler counts it; WAL is how far the server's insert position moved.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Utils ();
use SyncExt::Bench;
use SyncExt::Hub;
use Time::HiRes qw(sleep);

my $SYSTEMS = 20;
my $WINDOW = long() ? 120 : 20;

my $vendor = start_nginx(<<'NGINX');
location / {
	default_type application/json;
	if ($request_method = GET) { return 200 '{"data": [], "next_page": null}'; }
	return 200 '{"id": "$request_id", "version": 1}';
}
NGINX
my $node = bench_cluster('idle', allow => $vendor);

sub wal { return $node->value("SELECT pg_current_wal_insert_lsn() - '0/0'") }

sub workers_cpu
{
	my $sum = 0;

	$sum += cpu_seconds($_) foreach $node->worker_pids;
	return $sum;
}

# The sandbox's plain vendor, with a second object like its first.
my $manifest = JSON::PP->new->decode(SyncExt::Hub::manifest('rest'));
$manifest->{objects}{contact} = $manifest->{objects}{customer};
my $json = JSON::PP->new->encode($manifest);

$node->sql(qq{
	CREATE SCHEMA app;
	CREATE TABLE app.customer (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, billing_email text);
	CREATE TABLE app.contact (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, billing_email text);
	SELECT sync.track('app.customer', 'customer');
	SELECT sync.track('app.contact', 'contact');
	SELECT sync.register_connector(\$manifest\$$json\$manifest\$::jsonb)});
foreach my $i (1 .. $SYSTEMS)
{
	$node->secret("vendor$i", 'token', 'token');
	$node->sql(qq{
		CREATE SERVER vendor$i FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'rest', base_url '$vendor');
		CREATE USER MAPPING FOR PUBLIC SERVER vendor$i OPTIONS (token 'file:token');
		SELECT sync.create_route('vendor$i', o), sync.create_stream('vendor$i', o, '1 hour')
		FROM unnest(ARRAY['customer', 'contact']) o});
}
$node->sql(q{
	INSERT INTO app.customer (name) SELECT 'c' || i FROM generate_series(1, 10) i;
	INSERT INTO app.contact (name) SELECT 'c' || i FROM generate_series(1, 10) i});
$node->wait_idle(60) eq 't' or die 'the hub does not come to rest';
$node->poll_until('SELECT count(*) = 40 FROM sync.stream_status WHERE finished_at IS NOT NULL');

# The last checkpoint of the routes, autovacuum, the standby snapshot of the background writer.
sleep 5;
$node->sql('CHECKPOINT');
sleep 3;

if (wanted('idle.cpu') || wanted('idle.wal'))
{
	my (@cpu, @wal);

	foreach (1 .. 5)
	{
		my ($cpu, $wal) = (workers_cpu(), wal());

		sleep $WINDOW / 5;
		push @cpu, 100 * (workers_cpu() - $cpu) / ($WINDOW / 5);
		push @wal, wal() - $wal;
	}
	report('idle.cpu', \@cpu, '<=', 0.1, ' %');
	report('idle.wal', \@wal, '<=', 0, ' B');
	note('a single record of 56 bytes is the server\'s own, of running transactions') if grep { $_ } @wal;
}
if (wanted('idle.poll_wal'))
{
	my @bytes;
	my $polls = 'SELECT sum(pages) FROM sync.stream_cursor';

	$node->sql(q(UPDATE sync.stream SET every = '100 ms' WHERE object_id = sync._object_id('customer')));
	sleep 1;
	foreach (1 .. 5)
	{
		my ($before, $at) = ($node->value($polls), wal());

		sleep 1;
		push @bytes, (wal() - $at) / ($node->value($polls) - $before);
	}
	report('idle.poll_wal', \@bytes, '<=', 300, ' B');
}
