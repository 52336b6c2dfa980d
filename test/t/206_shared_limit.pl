# Readers and writers share a system's rate limit: readers that wait for every token do not keep writers
# from theirs, and a record whose reading settles nothing is not read again and again with all of them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use SyncExt::Vendor;
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => ['crm']);
my $node = $hub->node;

# A vendor that lists ids; each record is read by its id.
my $vendor = SyncExt::Vendor->start(sub {
	my ($request, $self) = @_;

	return SyncExt::Vendor::json({ id => 'made', name => 'Ours' }) if $request->{method} eq 'POST';
	return SyncExt::Vendor::json({ id => $1, name => ($self->get('name') // 'Thing') . " $1" }) if $request->{path} =~ m{^/things/(\w+)};
	return SyncExt::Vendor::json({ data => [ map { { id => $_ } } 1 .. $self->get('listed') // 0 ] });
});
my $manifest = JSON::PP->new->utf8->canonical->encode({
	manifest => 1, name => 'limited', version => '1', hosts => ['127.0.0.1'],
	secrets => { token => { required => JSON::PP::true } }, auth => { type => 'bearer', secret => 'token' },
	idempotency => { header => 'Idempotency-Key', lifetime => '24 hours', methods => ['POST'] },
	objects => { thing => {
		push => { operations => { create => { method => 'POST', path => '/things', body => { name => '$.new.name' }, response => { remote_id => '$.id' } } },
			plan => { create => ['create'], update => [], delete => [] } },
		pull => {
			list => { path => '/things', items => '$.data', record => '$.missing', id => '$.id' },
			fetch => { path => '/things/${id}' },
			record => { id => '$.id' },
			fields => { name => '$.name' },
			on_missing => 'insert' } } } });

$node->append_conf('postgresql.conf', "sync_ext.allowed_hosts = 'http://127.0.0.1:" . $hub->sandbox->port . ', ' . $vendor->url . "'");
$node->reload;
$node->secret('limited', 'token', 'secret-token');
$hub->sql("CREATE TABLE app.thing (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text);
	SELECT sync.track('app.thing', 'thing');
	SELECT sync.register_connector(\$m\$$manifest\$m\$::jsonb);
	CREATE SERVER limited FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'limited', base_url '" . $vendor->url . "', rate_limit '20/s');
	CREATE USER MAPPING FOR PUBLIC SERVER limited OPTIONS (token 'file:token');
	SELECT sync.create_route('limited', 'thing');
	SELECT sync.create_stream('limited', 'thing')");

sub reads { my ($path) = @_; return scalar(grep { $_->{path} =~ $path } @{ $vendor->requests }) }

subtest 'a writer among readers' => sub {
	$vendor->set('listed', 400);
	$hub->sql(q(SELECT sync.request_pull('limited', 'thing')));
	# More of them than may be out at once wait for tokens from now on.
	$hub->poll_until(q(SELECT count(*) > 300 FROM sync.inbox));
	$hub->poll_until('SELECT count(*) > 5 FROM app.thing');
	$hub->sql(q(INSERT INTO app.thing (name) VALUES ('Ours')));
	$hub->poll_until(q(SELECT EXISTS (SELECT FROM sync.outcome o JOIN sync.route r ON r.id = o.route_id AND r.name = 'thing_to_limited' WHERE o.final)));
	cmp_ok($hub->value('SELECT count(*) FROM sync.inbox'), '>', 150, 'is not kept waiting until all is read');
	$hub->sql(q(ALTER SERVER limited OPTIONS (SET rate_limit '1000/s')));
	$hub->wait_idle(60);
	is($hub->value('SELECT count(*) FROM app.thing'), 401, 'and all is read');
};

# As after a failover from a server whose clock was ahead.
subtest 'a read that settles nothing' => sub {
	$vendor->set('listed', 1);
	$vendor->set('name', 'Renamed');
	my $before = reads(qr{/things/1$});
	$hub->sql(q(UPDATE sync.mirror SET pushed_at = clock_timestamp() + interval '3 s' WHERE remote_id = '1';
		SELECT sync.request_pull('limited', 'thing')));
	$hub->poll_until(q(SELECT EXISTS (SELECT FROM app.thing WHERE name = 'Renamed 1')));
	cmp_ok(reads(qr{/things/1$}) - $before, '<=', 8, 'is made again after pauses that grow');
	cmp_ok(reads(qr{/things/1$}) - $before, '>=', 2, 'and was stale before');
	$hub->wait_idle;
	is($hub->value('SELECT count(*) FROM sync.inbox'), 0, 'nothing is left of it');
};

$node->stop;
done_testing();
