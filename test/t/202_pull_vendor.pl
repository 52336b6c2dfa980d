# A vendor of our own, byte by byte: headers and errors that are out of the
# ordinary, links, reads by id that answer with another record, no reads by id.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use POSIX qw(strftime);
use SyncExt::Hub;
use SyncExt::Vendor;
use Test::More;
use Time::HiRes qw(sleep);

my $json = JSON::PP->new->utf8->canonical;
my $hub = SyncExt::Hub->new('main', systems => ['crm']);
my $node = $hub->node;
my @hosts = ('http://127.0.0.1:' . $hub->sandbox->port);

$node->secret('odd', 'token', 'secret-token-0815');
$hub->sql('CREATE TABLE app.thing (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, colour text);
	SELECT sync.track(\'app.thing\', \'thing\')');

my %connector = (
	list => { path => '/things', query => { since => '$cursor.since' }, items => '$.data', next => { link => '$.next' } },
	cursor => { time => '$.at', lookback => '0 s', resolution => '1 ms' },
	record => { id => '$.id' },
	fields => { name => '$.name', colour => '$.colour' },
	on_missing => 'insert');

# A system of its own for each vendor.
sub connect_to
{
	my ($system, $vendor, %pull) = @_;
	my ($push) = delete $pull{push};
	my $path = delete $pull{base_path} // '';
	my $manifest = { manifest => 1, name => "c_$system", version => '1', hosts => ['127.0.0.1'],
		secrets => { token => { required => JSON::PP::true } }, auth => { type => 'bearer', secret => 'token' },
		error => { code => '$.code', message => '$.message' },
		objects => { thing => { pull => { %connector, %pull }, $push ? (push => $push) : () } } };
	my $text = $json->encode($manifest);

	push @hosts, $vendor->url;
	$node->append_conf('postgresql.conf', "sync_ext.allowed_hosts = '" . join(', ', @hosts) . "'");
	$node->reload;
	$node->secret($system, 'token', 'secret-token-0815');
	$hub->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb);
		CREATE SERVER $system FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'c_$system', base_url '" . $vendor->url . "$path', settle_time '100 ms');
		CREATE USER MAPPING FOR PUBLIC SERVER $system OPTIONS (token 'file:token');
		SELECT sync.create_stream('$system', 'thing')");
	return;
}

sub ask { $hub->sql("SELECT sync.request_pull('$_[0]', 'thing')"); return }
sub pull { ask(@_); $hub->wait_idle(30); return }
sub status { my ($system, $column) = @_; return $hub->value("SELECT $column FROM sync.stream_status WHERE system = '$system'") }
sub things { return $hub->sql('SELECT name, colour FROM app.thing ORDER BY name') }

# ---- headers of any bytes, and a body that is cut inside a character ----

my $latin = SyncExt::Vendor->start(sub {
	my ($request) = @_;
	return SyncExt::Vendor::answer(200, "caf\xC3", "X-Motto: caf\xE9", "X-\xE9: 1") if $request->{n} == 1;
	return SyncExt::Vendor::json({ data => [ { id => '1', name => 'Latin', at => '2026-01-01T00:00:00Z' } ] },
		"X-Motto: caf\xE9", 'X-Empty:', "Date: yesterday");
});
connect_to('latin', $latin);
my $offset = $hub->log_size;
my $customer = $hub->write('A neighbour');
ask('latin');
$hub->poll_until(q(SELECT applied = 1 FROM sync.stream_status WHERE system = 'latin'), 30);
$hub->wait_idle;
is(things(), 'Latin|', 'headers that are no text do no harm');
is($hub->value("SELECT state FROM sync.record_status WHERE record_id = '$customer' AND system = 'crm'"), 'synced', 'the neighbour goes on');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset), qr/invalid byte sequence|an error occurred/, 'and the hub does not begin anew');

# ---- a vendor that tells our credentials back ----

my $parrot = SyncExt::Vendor->start(sub {
	return SyncExt::Vendor::answer(403, '{"code": "forbidden", "message": "token secret-token-0815 may not read\nthis"}');
});
connect_to('parrot', $parrot);
$offset = $hub->log_size;
ask('parrot');
$hub->poll_until(q(SELECT failures > 0 FROM sync.stream_status WHERE system = 'parrot'));
like(status('parrot', 'last_error'), qr/403.*forbidden.*may not read/, 'a refusal is told');
unlike($hub->sql('SELECT * FROM sync.stream_status; SELECT * FROM sync.health()') . PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset),
	qr/secret-token-0815/, 'without our secret');
$hub->sql(q(SELECT sync.drop_stream('parrot', 'thing')));

# ---- links, with an address that an option gave a path ----

my $links = SyncExt::Vendor->start(sub {
	my ($request) = @_;
	return SyncExt::Vendor::json({ data => [ { id => '1', name => 'Link 1', at => '2026-01-01T00:00:00Z' } ], next => 'https://elsewhere.example/api/v2/things?page=2' })
	  if $request->{path} =~ m{^/api/v2/things(\?since|$)};
	return SyncExt::Vendor::json({ data => [ { id => '2', name => 'Link 2', at => '2026-01-01T00:00:00Z' } ], next => undef })
	  if $request->{path} eq '/api/v2/things?page=2';
	return SyncExt::Vendor::answer(404, '{}');
});
connect_to('links', $links, base_path => '/api/v2');
pull('links');
is(things(), "Latin|\nLink 1|\nLink 2|", 'a link goes on below the address of the server option, nowhere else')
  or diag(explain($links->requests));

# ---- a read by id that answers with another record ----

my $merged = SyncExt::Vendor->start(sub {
	my ($request) = @_;
	return SyncExt::Vendor::json({ id => '8', name => 'Winner', at => '2026-01-01T00:00:00Z' }) if $request->{path} eq '/things/7';
	return SyncExt::Vendor::json({ data => [ { id => '7' } ] });
});
connect_to('merged', $merged, list => { %{ $connector{list} }, record => '$.missing', id => '$.id' }, fetch => { path => '/things/${id}' });
ask('merged');
$hub->poll_until(q(SELECT count(*) = 1 FROM sync.inbox_status WHERE system = 'merged' AND reason ~ 'another record: 8'));
pass('a read by id that brings another record is not taken for the one asked for');
is($hub->value(q(SELECT count(*) FROM app.thing WHERE name = 'Winner')), 0, 'and not written');
$hub->sql(q(SELECT sync.discard_inbox(id, 'tested') FROM sync.inbox_status));

# ---- no read by id: what may be stale holds the cursor, over several pages, and over a crash ----

my $held = SyncExt::Vendor->start(sub {
	my ($request, $self) = @_;

	return SyncExt::Vendor::json({ id => '1', name => 'Pushed', colour => 'red' }) if $request->{method} eq 'PATCH';
	if ($request->{path} =~ /page=2/)
	{
		sleep 0.2;
		return SyncExt::Vendor::json({ data => [ { id => '2', name => 'Page 2', at => '2026-01-01T00:00:01Z' } ] });
	}
	my $name = $self->get('name') // 'One';
	my $pause = $self->get('pause') // 0;
	my $colour = $self->get('colour') // 'red';
	sleep $pause;
	return SyncExt::Vendor::json({ data => [ { id => '1', name => $name, colour => $colour, at => '2026-01-01T00:00:00Z' } ], next => '/things?page=2' });
});
connect_to('held', $held, push => { operations => { update => { method => 'PATCH', path => '/things/${remote.id}', body => { name => '$.new.name' }, response => { record => '$', remote_id => '$.id' } } },
		plan => { create => [], delete => [], update => ['update'] } });
$hub->sql(q(SELECT sync.create_route('held', 'thing')));
pull('held');
my $one = $hub->value(q(SELECT record_id FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id WHERE y.name = 'held' AND x.remote_id = '1'));
my $before = $hub->value(q(SELECT cursor FROM sync.stream_cursor c JOIN sync.stream t ON t.id = c.stream_id JOIN sync.system y ON y.id = t.system_id WHERE y.name = 'held'));

# The page is made before the push and comes after it.
$held->set(pause => 1);
$held->set(name => 'Stale');
ask('held');
sleep 0.3;
$hub->sql("UPDATE app.thing SET name = 'Pushed' WHERE id = '$one'");
$hub->poll_until(q(SELECT count(*) = 1 FROM app.thing WHERE name = 'Pushed'));
$hub->poll_until(q(SELECT state <> 'walking' AND finished_at >= started_at AND started_at >= requested_at FROM sync.stream_status WHERE system = 'held'), 30);
is($hub->value("SELECT name FROM app.thing WHERE id = '$one'"), 'Pushed', 'a page that may be stale does not revert the push');
is($hub->value(q(SELECT cursor FROM sync.stream_cursor c JOIN sync.stream t ON t.id = c.stream_id JOIN sync.system y ON y.id = t.system_id WHERE y.name = 'held')),
	$before, 'and holds the cursor, though its walk went on');
is($hub->value(q(SELECT next_at > now() FROM sync.stream_status WHERE system = 'held')), 't', 'until it is walked again, soon');
$held->set(pause => 0);
$held->set(name => 'Pushed');
$held->set(colour => 'blue');
$node->kill9_worker('sync_ext hub%');
$hub->wait_up;
$hub->poll_until("SELECT colour = 'blue' FROM app.thing WHERE id = '$one'", 40);
pass('by itself, also after a crash');
is($hub->value("SELECT name FROM app.thing WHERE id = '$one'"), 'Pushed', 'with nothing reverted');

# ---- what somebody else changed there, seen first in the answer to a push ----

my $changed = $hub->value(q(SELECT count(*) FROM sync.outbox));
$held->set(colour => 'green');
$hub->sql("UPDATE app.thing SET name = 'Pushed again' WHERE id = '$one'");
$held->set(name => 'Pushed again');
$hub->wait_idle;
pull('held');
is($hub->value("SELECT name || ' ' || colour FROM app.thing WHERE id = '$one'"), 'Pushed again green', 'a change of another field is not taken for known');

# ---- a manifest that is corrected: what waited for that goes in at once ----

my $odd = SyncExt::Vendor->start(sub {
	return SyncExt::Vendor::json({ data => [ { id => '1', name => 'Odd', colour => 'rouge', at => '2026-01-01T00:00:00Z' } ] });
});
sub odd_manifest
{
	my ($version, %enum) = @_;
	my $text = $json->encode({ manifest => 1, name => 'c_odd', version => $version, hosts => ['127.0.0.1'],
		secrets => { token => { required => JSON::PP::true } }, auth => { type => 'bearer', secret => 'token' },
		enums => { colour => { pull => { %enum } } },
		objects => { thing => { pull => { %connector, fields => { name => '$.name', colour => { '$' => '$.colour', map => 'colour' } } } } } });
	return "SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)";
}
push @hosts, $odd->url;
$node->append_conf('postgresql.conf', "sync_ext.allowed_hosts = '" . join(', ', @hosts) . "'");
$node->reload;
$hub->sql(odd_manifest('1', rosso => 'red') . ";
	CREATE SERVER odd FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'c_odd', base_url '" . $odd->url . "');
	CREATE USER MAPPING FOR PUBLIC SERVER odd OPTIONS (token 'file:token');
	SELECT sync.create_stream('odd', 'thing')");
pull('odd');
like($hub->sql(q(SELECT state, reason FROM sync.inbox_status WHERE system = 'odd')), qr/failed\|.*"rouge" is not in enum/, 'an unknown value waits in the inbox');
$hub->sql(odd_manifest('2', rouge => 'red'));
$hub->poll_until(q(SELECT count(*) = 1 FROM app.thing WHERE name = 'Odd' AND colour = 'red'), 20);
is($hub->value(q(SELECT count(*) FROM sync.inbox_status WHERE system = 'odd')), 0, 'and goes in as soon as the manifest knows it');

is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'invariants');
$node->stop;
done_testing();
